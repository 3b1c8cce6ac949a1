"""The training of a run, built from a config: networks, objective, optimiser and compiled steps."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np
import optax
from jax.sharding import Mesh

from amdjax import distributed
from amdjax.config import compute_dtype, forward_batch_size
from amdjax.data import Dataset, ImageSource, TrainBatches
from amdjax.data.augment import create_augment, create_strong_augment
from amdjax.data.mixing import create_mix
from amdjax.experiment import RunSpec, optim_of, sees_unlabeled, total_steps
from amdjax.losses import Objective, build_objective
from amdjax.models import Model, Outputs, abstract_variables, create_model, init_variables
from amdjax.predictor import Predictor, create_predictor
from amdjax.teacher_outputs.stored import StoredOutputs
from amdjax.training.dummy_outputs import dummy_inputs, dummy_outputs, output_shapes
from amdjax.training.evaluation import evaluate
from amdjax.training.initial_state import InitialState
from amdjax.training.optimizer import create_optimizer, learning_rate_schedule
from amdjax.training.run_teacher import create_run_teacher
from amdjax.training.step_programs import loop_train_steps, vmap_train_step
from amdjax.training.train_state import TrainState
from amdjax.training.train_step import make_train_step


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Trainer:
    """The training of a run; from `build_trainer`.

    The seeds of a method share one trainer, and with it the compiled programs.

    Attributes:
      config: of the experiment.
      dataset: what to train with and to evaluate on.
      mesh: of all devices.
      student: the network that is trained; a teacher in the teacher's run.
      teacher: the network that it learns from, or a file of its outputs; None where no loss reads
        it.
      objective: what is minimised.
      optimizer: of the network's parameters and those of the losses.
      learning_rate: step -> learning rate.
      train_step: a step of one device's shard, from `make_train_step`.
      predictor: of the student, to evaluate it.
      steps_per_epoch: full batches in the training split.
      total_steps: the step after which the run is finished.
    """

    config: ml_collections.ConfigDict
    dataset: Dataset
    mesh: Mesh
    student: Model
    teacher: Model | StoredOutputs | None
    objective: Objective
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    train_step: Callable[..., Any]
    predictor: Predictor
    steps_per_epoch: int
    total_steps: int
    _compiled: dict[tuple[int, bool], Callable[..., Any]] = dataclasses.field(
        init=False, default_factory=dict
    )

    def init_state(self, seed: int, initial: InitialState | None = None) -> TrainState:
        """Returns the state before the first step, replicated on all devices.

        Args:
          seed: of the random variables.
          initial: what the network starts from in place of them.
        """
        key = jax.random.key(np.uint32(seed))
        loss_variables = self._loss_shapes
        if jax.tree.leaves(loss_variables):
            loss_variables = self._compiled_init_losses(jax.random.fold_in(key, 1))
        if initial is None:
            variables = init_variables(self.student, key, self.dataset.image_shape)
        else:
            variables, loss_variables = (
                initial.variables,
                initial.loss_variables_for(loss_variables),
            )
        state = self._create_state(variables, loss_variables)
        if initial is not None and initial.ema and state.ema:
            state = dataclasses.replace(state, ema=initial.ema)
        return distributed.replicate(state, self.mesh)

    @functools.cached_property
    def state_shapes(self) -> TrainState:
        """The shapes, dtypes and shardings of a state, for which nothing is computed."""
        state = jax.eval_shape(
            self._create_state,
            abstract_variables(self.student, self.dataset.image_shape),
            self._loss_shapes,
        )
        return distributed.replicated_shapes(state, self.mesh)

    def _create_state(self, variables: dict, loss_variables: dict) -> TrainState:
        ema = self.config.ema_decay > 0
        return TrainState.create(variables, loss_variables, self.optimizer, ema)

    def _init_losses(self, outputs_of: Callable[..., Outputs], key: jax.Array) -> dict:
        shape = self.dataset.image_shape
        ours = outputs_of(self.student, shape)
        theirs = None if self.teacher is None else outputs_of(self.teacher, shape)
        return self.objective.init(key, dummy_inputs(ours, theirs, len(self.dataset.train)))

    @functools.cached_property
    def _loss_shapes(self) -> dict:
        init = functools.partial(self._init_losses, output_shapes)
        return jax.eval_shape(init, jax.random.key(0))

    @functools.cached_property
    def _compiled_init_losses(self) -> Callable[[jax.Array], dict]:
        # Of outputs, and not of their shapes: the state of SimKD starts as a copy of some.
        return distributed.jit(functools.partial(self._init_losses, dummy_outputs))

    def train_batches(self, seed: int) -> TrainBatches:
        """Returns this process's rows of the training batches, in the order of a seed."""
        return train_batches(self.config, self.dataset, seed)

    def compiled_step(self, networks: int = 1, on_device: bool = False) -> Callable[..., Any]:
        """Returns the compiled step over all devices; the same function each time.

        Args:
          networks: number of networks that are trained as one program.
          on_device: many steps as one program, whose examples are on the devices, see
            `loop_train_steps`; else one step, whose batch is an argument, see `make_train_step`.
        """
        key = (networks, on_device)
        if key not in self._compiled:
            step: Callable[..., Any] = self.train_step
            in_axes: tuple[int | None, ...] = (None, 0, 0)
            if on_device:
                step = loop_train_steps(step)
                in_axes = (None, None, 0, 0, None)
            if networks > 1:
                step = vmap_train_step(step, in_axes)
            self._compiled[key] = distributed.shard_step(
                step,
                self.mesh,
                batch_argument=3 if on_device else 2,
                donate=(0,),
                batch_axis=on_device + (networks > 1),
            )
        return self._compiled[key]

    def evaluate(self, state: TrainState, source: ImageSource) -> dict[str, float]:
        """Returns the metrics of a state's network on all images of a split."""
        variables = self.prediction_variables(state)
        batch_size = forward_batch_size(self.config)
        return evaluate(self.predictor, variables, source, batch_size, self.mesh)

    def prediction_variables(self, state: TrainState) -> dict:
        """Returns the variables of a state that its `predictor` takes, see `Predictor.bind`."""
        variables = dict(state.eval_variables)
        if losses := self.objective.predicting_variables(state.loss_variables):
            variables["losses"] = losses
        return variables


def build_trainer(
    config: ml_collections.ConfigDict, spec: RunSpec, dataset: Dataset, mesh: Mesh | None = None
) -> Trainer:
    """Builds the training of a run.

    Args:
      config: see `configs/default.py`.
      spec: of the run, from `plan_runs`; its name and seed do not count.
      dataset: what to train with.
      mesh: of the devices to use; None: all of them.

    Raises:
      UserError: on an invalid setting.
    """
    mesh = distributed.make_mesh() if mesh is None else mesh
    steps_per_epoch = train_batches(config, dataset, seed=0).steps_per_epoch
    dtype, axis = compute_dtype(config), distributed.BATCH_AXIS if config.sync_batch_norm else None
    student = create_model(spec.model, dataset.num_classes, dtype, axis)
    teacher = create_run_teacher(config, spec, dataset.num_classes, axis)
    objective = build_objective(
        spec.losses, steps_per_epoch, config.epochs, sees_unlabeled(config, spec)
    )
    optim = optim_of(config, spec)
    optimizer = create_optimizer(optim, steps_per_epoch, config.epochs)
    mix = None if spec.is_teacher else create_mix(config.mix, distributed.reverse_batch)
    strong_augment = None
    if objective.needs_strong_view:
        strong_augment = create_strong_augment(config.augment)
    return Trainer(
        config=config,
        dataset=dataset,
        mesh=mesh,
        student=student,
        teacher=teacher,
        objective=objective,
        optimizer=optimizer,
        learning_rate=learning_rate_schedule(optim, steps_per_epoch, config.epochs),
        train_step=make_train_step(
            student=student,
            teacher=None if isinstance(teacher, StoredOutputs) else teacher,
            objective=objective,
            augment=create_augment(config.augment),
            optimizer=optimizer,
            mix=mix,
            teacher_sees_mixed=config.mix.teacher_sees_mixed,
            ema_decay=config.ema_decay,
            accumulate=config.accumulate,
            strong_augment=strong_augment,
            num_examples=len(dataset.train),
        ),
        predictor=create_predictor(
            create_model(spec.model, dataset.num_classes, dtype), config.augment, spec.losses
        ),
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps(
            config.epochs, spec.epoch_fraction, config.max_steps, steps_per_epoch
        ),
    )


def train_batches(config: ml_collections.ConfigDict, dataset: Dataset, seed: int) -> TrainBatches:
    """Returns this process's rows of the training batches, in the order of a seed."""
    return TrainBatches(
        dataset.train,
        config.batch_size,
        seed,
        distributed.process_index(),
        distributed.process_count(),
    )

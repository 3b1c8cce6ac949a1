"""Steps compiled for accelerators that are not there: the analysis, and the steps themselves."""

import importlib.util
import subprocess
import sys
from types import SimpleNamespace

import pytest

from amdjax.configs import default
from amdjax.experiment import plan_runs
from benchmarks import ahead_of_time
from tests.tiny_run import ROOT

# A program of each kind of instruction that is counted.
_PROGRAM = """
ENTRY %main {
  %copy.1 = bf16[8,4,4,2]{0,3,2,1} copy(%param.1)
  %copy-start.1 = (f32[16]{0:S(1)}, f32[16]{0}, u32[]) copy-start(%param.2)
  %conv.1 = bf16[8,4,4,2]{3,2,1,0} convolution(%a, %b), metadata={op_name="jit(s)/shard_map/\
jvp(Net)/conv"}, backend_config={"estimated_cycles":"70"}
  %conv.2 = (f32[8,2]{1,0}, u8[0]{0}) custom-call(%a, %b), custom_call_target="__cudnn$convForward"
  %all-reduce.1 = (f32[16]{0}, /*index=1*/f32[4]{0}) all-reduce(%c, %d)
  %all-reduce-start.1 = ((f32[32]{0}), f32[32]{0}) all-reduce-start(%e)
  %fusion.1 = f32[]{:T(128)} fusion(%f), metadata={op_name="jit(s)/shard_map/transpose(jvp(Net))/\
conv"}, backend_config={"estimated_cycles":"20"}
  %fusion.2 = f32[] fusion(%f), metadata={op_name="jit(s)/shard_map/jvp()/mul"}, x={\
"estimated_cycles":"7"}
  %fusion.3 = f32[] fusion(%f), metadata={op_name="jit(s)/shard_map/Net/conv"}, x={\
"estimated_cycles":"2"}
  ROOT %fusion.4 = f32[] fusion(%f), metadata={op_name="jit(s)/shard_map/sqrt"}, x={\
"estimated_cycles":"1"}
}
"""


class _Compiled:
    def __init__(self, cost):
        self._cost = cost

    def cost_analysis(self):
        return self._cost

    def memory_analysis(self):
        return SimpleNamespace(
            argument_size_in_bytes=100,
            output_size_in_bytes=50,
            alias_size_in_bytes=40,
            temp_size_in_bytes=7,
        )

    def as_text(self):
        return _PROGRAM


def test_analyze_counts_instructions_and_bytes():
    program = ahead_of_time.analyze(_Compiled({"flops": 3.0, "bytes accessed": 5.0}))
    assert program.flops == 3.0
    assert program.bytes_accessed == 5.0
    assert program.memory == 117
    assert program.collectives == {"all-reduce": (2, 4 * 20 + 4 * 32)}
    assert program.convolutions == {"bf16": 1, "f32": 1}
    assert program.copies == (1, 2 * 256)


def test_analyze_divides_cycles_among_the_parts_of_a_step():
    assert ahead_of_time.analyze(_Compiled({"flops": 1.0, "bytes accessed": 1.0})).cycles == {
        "student forward": 70,
        "student backward": 20,
        "losses": 7,
        "teacher": 2,
        "rest": 1,
    }


def test_analyze_accepts_programs_without_costs():
    program = ahead_of_time.analyze(_Compiled(None))
    assert program.flops is None
    assert program.bytes_accessed is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--config=NAME.py is missing"),
        (("--config=digits.py", "--topology=h100:many"), "--topology=h100:many: "),
    ],
)
def test_ahead_of_time_names_mistakes(flags, message):
    command = [sys.executable, "-m", "benchmarks.ahead_of_time", *flags]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture(scope="module")
def mesh():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed")
    return ahead_of_time.make_mesh("v5e:2x2")


def _compile(mesh, on_device=False, **settings):
    config = default.get_config()
    with config.unlocked():
        config.teacher.name, config.student.name = "wrn_10_2", "wrn_10_1"
        config.update_from_flattened_dict(settings)
    dataset = ahead_of_time.dataset_of_sizes(config, num_images=1024)
    spec = plan_runs(config)[-1]
    compiled = ahead_of_time.compile_step(config, spec, dataset, mesh, on_device)
    return ahead_of_time.analyze(compiled)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["scratch", "amd_gl", "afd", "sp", "amc", "arcface"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_steps_reduce_gradients_in_one_collective(mesh, method, dtype):
    program = _compile(mesh, methods=(method,), dtype=dtype)
    norms = 7  # of the student, each with a sum forward and one backward
    gathered = {"amc": 1}.get(method, 0)  # the labels of its pairs, which XLA gathers by a sum
    assert program.collectives["all-reduce"][0] == 2 * norms + 1 + gathered
    short = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    assert program.convolutions[short] == max(program.convolutions.values())


@pytest.mark.slow
def test_steps_on_the_device_are_a_loop(mesh):
    streamed = _compile(mesh, methods=("amd_gl",))
    resident = _compile(mesh, on_device=True, methods=("amd_gl",))
    assert resident.flops == pytest.approx(streamed.flops, rel=0.01)
    # The images as they are, and not padded to another layout.
    images = 1024 * 32 * 32 * 3
    assert images / 2 < resident.memory - streamed.memory < 2 * images


@pytest.mark.slow
def test_resnet50_at_224_fits_a_chip(mesh):
    program = _compile(
        mesh,
        **{
            "data.name": "imagenet",
            "data.image_size": 224,
            "teacher.name": "resnet50",
            "student.name": "resnet18",
            "methods": ("kd",),
            "batch_size": 256,
            "dtype": "bfloat16",
        },
    )
    assert program.memory < 16 * 2**30

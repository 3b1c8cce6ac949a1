"""The PyTorch side: the same networks, losses and optimiser."""

import collections
import functools
import itertools
import math
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import worker

_MEAN, _STD = (0.507, 0.487, 0.441), (0.267, 0.256, 0.276)  # as amdjax normalises
_CHECKED_STEPS = 100  # in which the loss must be finite


class Block(nn.Module):
    """A pre-activation block."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        changes = inputs != width
        self.shortcut = nn.Conv2d(inputs, width, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B,C,H,W] to [B,width,H/stride,W/stride]."""
        y = F.relu(self.bn1(x), inplace=True)
        if self.shortcut is not None:
            x = self.shortcut(y)
        return x + self.conv2(F.relu(self.bn2(self.conv1(y)), inplace=True))


class WideResNet(nn.Module):
    """WRN-16-k."""

    def __init__(self, widen: int):
        super().__init__()
        widths = [16, *(16 * widen * 2**stage for stage in range(3))]
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.stages = nn.ModuleList(
            nn.Sequential(
                Block(widths[i], widths[i + 1], 1 + (i > 0)), Block(*[widths[i + 1]] * 2, 1)
            )
            for i in range(3)
        )
        self.bn1 = nn.BatchNorm2d(widths[-1])
        self.fc = nn.Linear(widths[-1], worker.NUM_CLASSES)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Maps images [B,3,H,W] to logits and the three stages' features."""
        x, features = self.conv1(x), []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return self.fc(F.relu(self.bn1(x)).mean((2, 3))), features


def am_loss(student: Tensor, teacher: Tensor, global_weight: float) -> Tensor:
    """The AM loss of one layer: `global_weight` for the map, the rest for its patches."""

    def logits(feature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attention = feature.float().square().sum(1)
        cosine = attention / (attention.flatten(1).norm(dim=1)[:, None, None] + 1e-6)
        clipped = cosine.clamp(-1 + 1e-7, 1 - 1e-7)
        positive = worker.SCALE * torch.cos(worker.MARGIN * torch.arccos(clipped))
        negative = worker.SCALE * (1 - cosine)
        return F.logsigmoid(positive - negative), positive, negative

    def distance(ours: Tensor, theirs: Tensor) -> Tensor:
        ours, theirs = F.normalize(ours.flatten(1)), F.normalize(theirs.flatten(1))
        return (ours - theirs).square().mean()

    def quarters(x: Tensor) -> list[Tensor]:
        return [part for half in x.chunk(worker.GRID, 1) for part in half.chunk(worker.GRID, 2)]

    pairs = list(zip(logits(student), logits(teacher), strict=True))
    loss = global_weight * sum(distance(*pair) for pair in pairs) / 3
    if global_weight < 1:
        parts = [zip(quarters(a), quarters(b), strict=True) for a, b in pairs]
        local = sum(distance(*patch) for part in parts for patch in part)
        loss = loss + (1 - global_weight) * local / 3 / worker.GRID**2
    return loss


def _batches(data: str, batch: int, size: int, placement: dict) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields normalised images and labels on the device, in a new order in each epoch.

    The training set, 16 batches of bytes, lies in the device's memory ("resident"), or a thread of
    the host takes the rows of each batch in pinned memory, two batches ahead ("streamed").
    """
    device, resident = placement["device"], data == "resident"
    home = device if resident else torch.device("cpu")
    images = torch.randint(0, 256, (16 * batch, 3, size, size), dtype=torch.uint8)
    images = images.to(home, memory_format=placement["memory_format"])
    labels = torch.randint(0, worker.NUM_CLASSES, (16 * batch,), device=home)

    def rows() -> Iterator[Tensor]:
        while True:
            yield from torch.randperm(16 * batch, device=home).split(batch)

    def take(chosen: Tensor) -> tuple[Tensor, Tensor]:
        parts = images[chosen], labels[chosen]
        if device.type == "cuda" and not resident:
            return parts[0].pin_memory(), parts[1].pin_memory()
        return parts

    def ahead() -> Iterator[tuple[Tensor, Tensor]]:
        with ThreadPoolExecutor(1) as pool:
            chosen = rows()
            waiting = collections.deque(
                pool.submit(take, one) for one in itertools.islice(chosen, 2)
            )
            while True:
                taken = waiting.popleft().result()
                waiting.append(pool.submit(take, next(chosen)))
                yield taken

    mean, std = (
        torch.tensor(values, device=device).view(1, 3, 1, 1) * 255 for values in (_MEAN, _STD)
    )
    for taken, label in map(take, rows()) if resident else ahead():
        image = taken.to(**placement, non_blocking=True)
        yield (image.float() - mean) / std, label.to(device, non_blocking=True)


def prepare(
    method: str,
    size: int,
    batch: int,
    dtype: str,
    variant: str,
    data: str = "fixed",
    layout: str = "channels_last",
) -> worker.Prepared:
    """See `worker.serve`.

    Args:
      method: of `worker.METHODS`.
      size: of the images, pixels.
      batch: images of a step.
      dtype: "float32", on NVIDIA cards with TF32, or "bfloat16", by autocast.
      variant: "eager", "compiled" (torch.compile), or "graphs", which replays CUDA graphs too.
      data: of `worker.DATA`.
      layout: of images and kernels, "channels_last" or "contiguous" (NCHW).
    """
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as JAX has it; convolutions have it
    ce, kd, am, global_weight = worker.METHODS[method]
    needs_teacher = kd > 0 or am > 0
    memory_format = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
    placement = {"device": device, "memory_format": memory_format[layout]}
    student, teacher = WideResNet(1).to(**placement), WideResNet(3).to(**placement).eval()
    optimizer = torch.optim.SGD(
        student.parameters(),
        worker.LEARNING_RATE,
        momentum=worker.MOMENTUM,
        weight_decay=worker.WEIGHT_DECAY,
        fused=device.type == "cuda",
    )
    images = torch.randn(batch, 3, size, size).to(**placement)
    labels = torch.randint(0, worker.NUM_CLASSES, (batch,), device=device)
    cast = torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")

    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        with cast:
            logits, features = student(images)
            if needs_teacher:
                with torch.no_grad():
                    teacher_logits, teacher_features = teacher(images)
        logits = logits.float()
        total = ce * F.cross_entropy(logits, labels)
        if kd:
            t = worker.TEMPERATURE
            ours, theirs = F.log_softmax(logits / t, 1), F.softmax(teacher_logits.float() / t, 1)
            total = total + kd * t * t * F.kl_div(ours, theirs, reduction="batchmean")
        if am:
            layers = zip(features, teacher_features, strict=True)
            total = total + am * sum(am_loss(a, b, global_weight) for a, b in layers) / 3
        return total

    if variant == "compiled":
        loss_of = torch.compile(loss_of)
    elif variant == "graphs":
        loss_of = torch.compile(loss_of, mode="reduce-overhead")

    done = 0

    def train_on(data: str) -> Callable[[int], None]:
        @functools.cache
        def opened() -> Iterator[tuple[Tensor, Tensor]]:
            if data == "fixed":
                return itertools.repeat((images, labels))
            return _batches(data, batch, size, placement)

        def train(steps: int) -> None:
            nonlocal done
            for _ in range(steps):
                if variant == "graphs":
                    torch.compiler.cudagraph_mark_step_begin()
                optimizer.zero_grad(set_to_none=True)
                loss = loss_of(*next(opened()))
                loss.backward()
                optimizer.step()
            done += steps
            # `item` also waits for the device. After many steps on noise it may be anything.
            if not math.isfinite(loss.item()) and done <= _CHECKED_STEPS:
                raise FloatingPointError(f"the loss of {method} is {loss.item()}")

        return train

    @torch.no_grad()
    def evaluate(steps: int) -> None:
        student.eval()
        for _ in range(steps):
            with cast:
                logits, _ = student(images)
            hits = (logits.argmax(1) == labels).float().mean()
            nll = F.cross_entropy(logits.float(), labels)
        if not math.isfinite((hits + nll).item()):
            raise FloatingPointError(f"the evaluation of {method} is not finite")
        student.train()

    def peak_mib() -> float:
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    facts = {
        "parameters": sum(x.numel() for x in student.parameters()),
        "software": f"torch {torch.__version__}",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
    }
    tasks = {name: train_on(name) for name in worker.DATA}
    return worker.Prepared(tasks[data], evaluate, peak_mib, facts, tasks)


if __name__ == "__main__":
    worker.serve(prepare)

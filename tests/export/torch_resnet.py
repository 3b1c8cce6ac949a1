"""ResNet for small images in PyTorch, with the published names (He et al., CVPR 2016)."""

from torch import Tensor, nn


def norm_conv(inputs: int, width: int, kernel: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, width, kernel, stride, kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(width)]


class Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = norm_conv(inputs, width, 3, stride)
        self.conv2, self.bn2 = norm_conv(width, width, 3, 1)
        same = inputs == width and stride == 1
        self.downsample = None if same else nn.Sequential(*norm_conv(inputs, width, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class ResNet8(nn.Module):
    def __init__(self, num_classes: int):
        super().__init__()
        self.conv1, self.bn1 = norm_conv(3, 16, 3, 1)
        self.layer1 = nn.Sequential(Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2))
        self.layer3 = nn.Sequential(Block(32, 64, 2))
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(self.bn1(self.conv1(x)).relu())
        return self.fc(self.layer3(self.layer2(x)).mean((2, 3)))

"""Convolutional nets of the known kinds, on digits."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from corpus.case import Case, adam, adamw, case, randn, sgd
from corpus.tasks import cross_entropy, digit_images, healthy
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm


def conv_bn(fan_in: int, fan_out: int, **options: int) -> nn.Sequential:
    """A convolution without a bias, for a BatchNorm follows."""
    return nn.Sequential(
        nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False, **options), nn.BatchNorm2d(fan_out), nn.ReLU()
    )


class BasicBlock(nn.Module):
    def __init__(self, fan_in: int, fan_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(fan_in, fan_out, 3, stride, 1, bias=False), nn.BatchNorm2d(fan_out)
        self.conv2, self.bn2 = nn.Conv2d(fan_out, fan_out, 3, 1, 1, bias=False), nn.BatchNorm2d(fan_out)
        self.relu, self.downsample = nn.ReLU(), nn.Sequential()
        if stride > 1 or fan_in != fan_out:
            self.downsample = nn.Sequential(nn.Conv2d(fan_in, fan_out, 1, stride, bias=False), nn.BatchNorm2d(fan_out))

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.downsample(x) + self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))


@case("h_resnet_of_ten_layers")
def _() -> Case:
    """Blocks of two convolutions, momentum and weight decay."""
    return healthy(
        build=lambda: nn.Sequential(
            conv_bn(1, 12), BasicBlock(12, 12), BasicBlock(12, 24, 2), BasicBlock(24, 24), BasicBlock(24, 32, 2),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
        ),
        batch=digit_images, loss=cross_entropy, optimizer=sgd(0.05, momentum=0.9, weight_decay=1e-4), steps=60,
    )  # fmt: skip


@case("h_vgg_without_norm_he_init")
def _() -> Case:
    """Six convolutions, He's weights, no normalisation."""

    def build() -> nn.Module:
        widths, layers = [1, 16, 16, 24, 24, 32, 32], []
        for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
            conv = nn.Conv2d(fan_in, fan_out, 3, padding=1)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)
            layers += [conv, nn.ReLU()] + [nn.MaxPool2d(2)] * (i % 2)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 10))

    return healthy(build=build, batch=digit_images, loss=cross_entropy, optimizer=adam(1e-3), steps=80)


class Dense(nn.Module):
    def __init__(self, fan_in: int, growth: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(fan_in + i * growth),
                nn.ReLU(),
                nn.Conv2d(fan_in + i * growth, growth, 3, padding=1, bias=False),
            )
            for i in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


@case("h_densenet_of_two_blocks")
def _() -> Case:
    """Every layer sees all before it."""
    return healthy(
        build=lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), Dense(8, 6, 3), nn.Conv2d(26, 12, 1), nn.AvgPool2d(2), Dense(12, 6, 3),
            nn.BatchNorm2d(30), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(120, 10),
        ),
        batch=digit_images, loss=cross_entropy, optimizer=adam(2e-3), steps=60,
    )  # fmt: skip


@case("h_mobilenet_depthwise")
def _() -> Case:
    """A filter for each channel, then a mix of channels; nothing but the expansion has an activation."""

    class Inverted(nn.Module):
        def __init__(self, width: int, stride: int = 1) -> None:
            super().__init__()
            self.expand = nn.Sequential(nn.Conv2d(width, 3 * width, 1, bias=False), nn.BatchNorm2d(3 * width))
            self.depthwise = nn.Sequential(
                nn.Conv2d(3 * width, 3 * width, 3, stride, 1, groups=3 * width, bias=False), nn.BatchNorm2d(3 * width)
            )
            self.project = nn.Sequential(nn.Conv2d(3 * width, width, 1, bias=False), nn.BatchNorm2d(width))
            self.stride = stride

        def forward(self, x: Tensor) -> Tensor:
            y = self.project(F.relu6(self.depthwise(F.relu6(self.expand(x)))))
            return x + y if self.stride == 1 else y

    return healthy(
        build=lambda: nn.Sequential(
            conv_bn(1, 16), Inverted(16), Inverted(16, 2), Inverted(16), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Linear(64, 10),
        ),
        batch=digit_images, loss=cross_entropy, optimizer=adam(3e-3), steps=60,
    )  # fmt: skip


class ConvNeXt(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv, self.norm = nn.Conv2d(width, width, 5, padding=2, groups=width), nn.LayerNorm(width)
        self.pwconv1, self.act, self.pwconv2 = nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 1e-2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).movedim(1, -1))
        return x + (self.gamma * self.pwconv2(self.act(self.pwconv1(y)))).movedim(-1, 1)


@case("h_convnext_layer_scale")
def _() -> Case:
    """Branches that begin at a hundredth of their size, by a learned scale."""
    return healthy(
        build=lambda: nn.Sequential(
            nn.Conv2d(1, 24, 2, 2), ConvNeXt(24), ConvNeXt(24), ConvNeXt(24), nn.Flatten(), nn.LayerNorm(384),
            nn.Linear(384, 10),
        ),
        batch=digit_images, loss=cross_entropy, optimizer=adamw(2e-3), steps=70,
    )  # fmt: skip


@case("h_group_norm_tiny_batches")
def _() -> Case:
    """Four samples a batch: the loss is noisy."""
    return healthy(
        build=lambda: nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.SiLU(), nn.Flatten(), nn.Linear(512, 10),
        ),
        batch=lambda s: digit_images(s, 4), loss=cross_entropy, optimizer=adam(1e-3), steps=200,
    )  # fmt: skip


@case("h_instance_norm_conv")
def _() -> Case:
    """Every map of every sample is normalised for itself."""
    return healthy(
        build=lambda: nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.InstanceNorm2d(16, affine=True), nn.LeakyReLU(0.1),
            nn.Conv2d(16, 24, 3, padding=1), nn.InstanceNorm2d(24, affine=True), nn.LeakyReLU(0.1),
            nn.AvgPool2d(2), nn.Flatten(), nn.Linear(384, 10),
        ),
        batch=digit_images, loss=cross_entropy, optimizer=adam(2e-3), steps=60,
    )  # fmt: skip


@case("h_weight_norm_conv")
def _() -> Case:
    """Direction and length of the weights learn apart."""
    return healthy(
        build=lambda: nn.Sequential(
            weight_norm(nn.Conv2d(1, 16, 3, padding=1)), nn.ELU(), weight_norm(nn.Conv2d(16, 16, 3, 2, 1)), nn.ELU(),
            nn.Flatten(), weight_norm(nn.Linear(256, 10)),
        ),
        batch=digit_images, loss=cross_entropy, optimizer=adam(2e-3), steps=80,
    )  # fmt: skip


@case("h_spectral_norm_conv")
def _() -> Case:
    """No layer stretches anything by more than one."""
    return healthy(
        build=lambda: nn.Sequential(
            spectral_norm(nn.Conv2d(1, 16, 3, padding=1)), nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(16, 32, 3, 2, 1)), nn.LeakyReLU(0.2),
            nn.Flatten(), spectral_norm(nn.Linear(512, 10)),
        ),
        batch=digit_images, loss=cross_entropy, optimizer=adam(3e-3), steps=100,
    )  # fmt: skip


class UNet(nn.Module):
    def __init__(self, width: int = 10) -> None:
        super().__init__()
        self.down1, self.down2 = conv_bn(1, width), conv_bn(width, 2 * width)
        self.bottom = conv_bn(2 * width, 2 * width)
        self.up2 = nn.ConvTranspose2d(2 * width, 2 * width, 2, 2)
        self.merge2, self.up1 = conv_bn(4 * width, width), nn.ConvTranspose2d(width, width, 2, 2)
        self.merge1, self.head = conv_bn(2 * width, width), nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        below = self.bottom(F.max_pool2d(second, 2))
        x = self.merge2(torch.cat([second, self.up2(below)], 1))
        return self.head(self.merge1(torch.cat([first, self.up1(x)], 1)))


@case("h_u_net_segments_ink")
def _() -> Case:
    """Finds the ink below the noise; skips across the bottom."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x, _ = digit_images(step, 48)
        return x + 0.6 * randn(*x.shape, step=step, salt=110), (x > 0.3).float()

    return healthy(
        build=UNet,
        batch=batch,
        loss=lambda m, b: F.binary_cross_entropy_with_logits(m(b[0]), b[1]),
        optimizer=adam(3e-3),
        steps=60,
    )


@case("h_global_max_pool_head")
def _() -> Case:
    """One pixel of each map gets all of the gradient."""
    return healthy(
        build=lambda: nn.Sequential(
            conv_bn(1, 24), conv_bn(24, 48), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(48, 10)
        ),
        batch=digit_images,
        loss=cross_entropy,
        optimizer=adam(3e-3),
        steps=80,
    )


@case("h_batch_norm_pairs")
def _() -> Case:
    """Two samples a batch: statistics of convolutions still come from a hundred pixels."""
    return healthy(
        build=lambda: nn.Sequential(conv_bn(1, 16), nn.MaxPool2d(2), conv_bn(16, 24), nn.Flatten(), nn.Linear(384, 10)),
        batch=lambda s: digit_images(s, 2),
        loss=cross_entropy,
        optimizer=adam(1e-3),
        steps=300,
    )

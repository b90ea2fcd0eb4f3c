"""How the built-in generator is trained against a discriminator: one update, its state, its schedule.

gan = GanTraining(config, images, labels, torch.device("cuda"))
update = capture(gan)                                   # a CUDA graph where there is a GPU
gan.schedule()
update()
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from builtin_networks import TrainableBigGAN, generator_config
from discriminator import Discriminator, augment_differentiably
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of one run, written into the card of the exported file."""

    steps: int
    """Updates of the generator."""
    batch_size: int
    """Images per update, of either network."""
    generator_size: str
    """A key of GENERATOR_CONFIGS."""
    trunk: str
    """Of the discriminator, a key of TRUNKS."""
    discriminator_width: int
    discriminator_steps: int
    """Updates of the discriminator per update of the generator."""
    generator_learning_rate: float
    discriminator_learning_rate: float
    augment: bool
    """DiffAugment on all that the discriminator sees: against overfitting, of use from some fifty epochs on."""
    class_weight: float
    """Of the class loss of the discriminator, and of the generator; 0 leaves the class head alone."""
    average_decay: float
    """Of the exponential moving average of the generator's weights, per update."""
    decay_from: float = 0.5
    """Part of the run after which the learning rates fall linearly to zero."""
    seed: int = 0


class GanTraining:
    """Both networks, their optimisers and the moving average; `update` runs on the device.

    Every random choice, the images of the batch included, is made on the device, so that `update` takes no input and
    can be captured as a CUDA graph.
    """

    def __init__(self, config: TrainingConfig, images: Tensor, labels: Tensor, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device = config, device
        self.images = images.to(device)
        self.labels = labels.to(device)
        self.generator = TrainableBigGAN(generator_config(config.generator_size)).to(
            device, memory_format=torch.channels_last
        )
        self.average = TrainableBigGAN(generator_config(config.generator_size)).to(
            device, memory_format=torch.channels_last
        )
        self.average.load_state_dict(self.generator.state_dict())
        self.average.requires_grad_(False)
        classes = self.generator.config.num_classes
        self.discriminator = Discriminator(trunk=config.trunk, width=config.discriminator_width, num_classes=classes)
        self.discriminator.to(device, memory_format=torch.channels_last)
        graphable = {"betas": (0.0, 0.999), "eps": 1e-7, "fused": True, "capturable": device.type == "cuda"}
        rates = (config.generator_learning_rate, config.discriminator_learning_rate)
        self.rates = tuple(torch.tensor(rate, device=device) for rate in rates)
        self.generator_optimiser = torch.optim.Adam(self.generator.parameters(), lr=self.rates[0], **graphable)
        self.discriminator_optimiser = torch.optim.Adam(self.discriminator.parameters(), lr=self.rates[1], **graphable)
        self.average_weight = torch.tensor(0.0, device=device)
        self.losses = torch.zeros(3, device=device)
        self.step = 0

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """Everything with state, by its name in the checkpoint."""
        return {
            "generator": self.generator,
            "average": self.average,
            "discriminator": self.discriminator,
            "generator_optimiser": self.generator_optimiser,
            "discriminator_optimiser": self.discriminator_optimiser,
        }

    def draw_latents(self) -> tuple[Tensor, Tensor, Tensor]:
        """Latents [B, z], labels [B], one-hot labels [B, C]."""
        batch, settings = self.config.batch_size, self.generator.config
        latents = torch.randn(batch, settings.z_dim, device=self.device)
        labels = torch.randint(0, settings.num_classes, (batch,), device=self.device)
        return latents, labels, F.one_hot(labels, settings.num_classes).float()

    def draw_real(self) -> tuple[Tensor, Tensor]:
        """Images [B, 3, 32, 32] in -1 … 1, half of them mirrored, and labels [B]."""
        batch = self.config.batch_size
        which = torch.randint(0, len(self.images), (batch,), device=self.device)
        images = self.images[which].permute(0, 3, 1, 2).float() / 127.5 - 1
        mirrored = torch.rand(batch, 1, 1, 1, device=self.device) < 0.5
        return torch.where(mirrored, images.flip(3), images), self.labels[which]

    def update(self) -> None:
        """The discriminator's updates, the generator's update, the moving average."""
        # The cast cache would outlive the graph that filled it.
        with torch.autocast(self.device.type, dtype=torch.bfloat16, cache_enabled=False):
            for turn in range(self.config.discriminator_steps):
                last = turn == self.config.discriminator_steps - 1
                latents, fake_labels, one_hot = self.draw_latents()
                with torch.set_grad_enabled(last):  # the generator's update goes on from the last fakes
                    if turn == 0 or last:
                        self.generator.spectral.normalise(dtype=torch.bfloat16)
                    fake = self.generator(latents, one_hot).float()
                real, real_labels = self.draw_real()
                self.discriminator.spectral.normalise(dtype=torch.bfloat16)
                both, labels = self.prepare(torch.cat([real, fake.detach()])), torch.cat([real_labels, fake_labels])
                verdict, classes = self.discriminator(both, labels)
                on_real, on_fake = verdict.chunk(2)
                named = F.cross_entropy(classes[: len(real)], real_labels)
                hinge = F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
                self.discriminator_optimiser.zero_grad(set_to_none=True)
                (hinge + self.config.class_weight * named).backward()
                self.discriminator_optimiser.step()

            self.discriminator.requires_grad_(False)
            with torch.no_grad():
                self.discriminator.spectral.normalise(dtype=torch.bfloat16)
            verdict, classes = self.discriminator(self.prepare(fake), fake_labels)
            loss_g = -verdict.mean()
            self.generator_optimiser.zero_grad(set_to_none=True)
            (loss_g + self.config.class_weight * F.cross_entropy(classes, fake_labels)).backward()
            self.generator_optimiser.step()
            self.discriminator.requires_grad_(True)
        with torch.no_grad():
            ours = list(self.average.parameters())
            theirs = list(self.generator.parameters())
            towards = torch._foreach_sub(theirs, ours)  # a lerp whose weight stays on the device
            torch._foreach_mul_(towards, self.average_weight)
            torch._foreach_add_(ours, towards)
            self.losses.copy_(torch.stack([hinge.detach(), loss_g.detach(), named.detach()]))

    def prepare(self, images: Tensor) -> Tensor:
        """Images as the discriminator takes them."""
        if self.config.augment:
            images = augment_differentiably(images)
        return images.contiguous(memory_format=torch.channels_last)

    def schedule(self) -> None:
        """Write the learning rates and the average's weight of the coming step; call before `update`."""
        config = self.config
        left = (config.steps - self.step) / (config.steps * (1 - config.decay_from))
        base = (config.generator_learning_rate, config.discriminator_learning_rate)
        for rate, full in zip(self.rates, base, strict=True):
            rate.fill_(full * min(1.0, max(0.0, left)))
        self.average_weight.fill_(1 - min(config.average_decay, (1 + self.step) / (10 + self.step)))
        self.step += 1

    def save(self, path: Path) -> None:
        """Write the whole state, atomically."""
        state = {name: part.state_dict() for name, part in self.parts().items()}
        temporary = path.with_name(f".{path.name}.tmp")
        torch.save({"config": asdict(self.config), "step": self.step, **state}, temporary)
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        """Go on from `save`. The random numbers go on from a seed made of the run's seed and the step."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["config"] != asdict(self.config):
            raise ValueError(f"{path} was trained with other settings {state['config']}: choose another --out")
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        # Loading replaces the optimisers' learning-rate tensors: the schedule has to write to the ones in use.
        optimisers = (self.generator_optimiser, self.discriminator_optimiser)
        for optimiser, rate in zip(optimisers, self.rates, strict=True):
            optimiser.param_groups[0]["lr"] = rate
        self.step = state["step"]
        torch.manual_seed(self.config.seed + 1_000_003 * self.step)

    @torch.no_grad()
    def sample(self, count: int, *, most_at_once: int = 500) -> tuple[Tensor, Tensor]:
        """Images uint8 [count, 32, 32, 3] of the averaged generator at truncation 1 with batch statistics, labels."""
        draw = torch.Generator(self.device).manual_seed(1)
        settings = self.generator.config
        images, labels = [], []
        self.average.spectral.normalise(iterations=20, dtype=torch.bfloat16)
        for first in range(0, count, most_at_once):
            size = min(most_at_once, count - first)
            label = torch.arange(first, first + size, device=self.device) % settings.num_classes
            latents = torch.randn(size, settings.z_dim, device=self.device, generator=draw)
            with torch.autocast(self.device.type, dtype=torch.bfloat16):
                made = self.average(latents, F.one_hot(label, settings.num_classes).float())
            images.append(to_uint8(made))
            labels.append(label)
        return torch.cat(images), torch.cat(labels)


def to_uint8(images: Tensor) -> Tensor:
    """Images [B, 3, H, W] in -1 … 1 as uint8 [B, H, W, 3]."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()


def capture(gan: GanTraining) -> Callable[[], None]:
    """`gan.update` as a CUDA graph; on other devices `gan.update` itself. Makes three updates to warm up."""
    if gan.device.type != "cuda":
        return gan.update
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            gan.update()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    gan.generator_optimiser.zero_grad(set_to_none=True)
    gan.discriminator_optimiser.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        gan.update()
    return graph.replay

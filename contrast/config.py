"""What a training run is: everything that decides its weights, as one frozen record that lies as JSON beside them.

config = TrainConfig(steps=600, objective="simclr")
TrainConfig.from_json(config.to_json()) == config
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from contrast.augment import AugmentConfig
from contrast.encoders import check_encoder
from contrast.mixing import count_real
from contrast.objectives import OBJECTIVES
from contrast.orders import count_steps_per_epoch
from contrast.positives import POSITIVES
from shards.canonical import JSON
from shards.numbers import check_flag, check_number, check_whole

OPTIMIZERS = ("sgd", "lars", "adamw")
ORDERS = ("shuffled", "streamed")
PRECISIONS = ("float32", "bfloat16")
FLOAT32_END = 1e38
"""Just about; torch raises at what is beyond."""
SEED_END = 2**63
"""What fits 64 bits with a sign."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The choices of a run. Together with the groups that it reads they decide the encoder.

    Where and how fast it runs (device, threads, checkpoints) is `RunOptions`' business, in `contrast.run_options`.
    """

    steps: int
    """Optimiser steps; the learning rate's schedule ends there."""
    objective: str = "simclr"
    """What is learnt from a group: see contrast.objectives."""
    positives: str = "both"
    """Which images of a group an objective is given, and whether augmented: see contrast.positives."""
    mix_share: float = 0.0
    """Share of a batch's groups that are real images, rounded to whole groups."""
    encoder: str = "convnet-small"
    """See contrast.encoders; torchvision:NAME and timm:NAME are those libraries' models."""
    batch_size: int = 128
    """Groups of a step, over all processes; a step sees this many times the images of a group."""
    accumulate: int = 1
    """Parts that a batch is cut into, one after the other, each with a loss of its own: their mean is learnt from.

    A contrastive loss compares the images of a part alone: more parts are another run, not the same in less memory.
    """
    optimizer: str = "adamw"
    """adamw, or sgd or lars with momentum 0.9."""
    learning_rate: float = 2e-3
    """Peak, for this batch size; reached after the warm-up, then a half cosine down to zero."""
    weight_decay: float = 0.05
    """Of matrices and kernels alone; see contrast.optimizer.split_parameters."""
    warmup: float = 0.1
    """Share of the steps in which the learning rate grows linearly."""
    temperature: float = 0.1
    """Of the softmax over similarities."""
    head_hidden_dim: int = 512
    head_dim: int = 128
    """Widths of the projection head, which only training uses."""
    sync_batchnorm: bool = False
    """Batch normalisation over all processes' shares; needs GPUs."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Pixel-space augmentation of every image."""
    precision: str = "float32"
    """Number format of the convolutions: float32, or bfloat16 under autocast. The loss is float32 in any case.
    On GPUs with TF32, torch multiplies float32 convolutions in that format unless its settings forbid it."""
    order: str = "shuffled"
    """Of the groups: shuffled or streamed, see contrast.orders. It follows from the reader. Two readers of one order
    give the same batches, so which of them it was is no part of the run."""
    seed: int = 0
    """Decides the initial weights, the order of the groups and the augmentation."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "head_hidden_dim", "head_dim"):
            object.__setattr__(self, name, check_whole(name, getattr(self, name), 1))
        object.__setattr__(self, "seed", check_whole("seed", self.seed, 0, SEED_END - 1))
        for name, above, highest, such_as in (
            ("learning_rate", True, FLOAT32_END, "0.002"),
            ("temperature", True, FLOAT32_END, "0.1"),
            ("weight_decay", False, FLOAT32_END, "0.05"),
            ("warmup", False, 1, "0.1"),
            ("mix_share", False, 1, "0.25"),
        ):
            value = check_number(name, getattr(self, name), 0, highest, above=above, such_as=such_as)
            object.__setattr__(self, name, value)
        check_flag("sync_batchnorm", self.sync_batchnorm)
        if not isinstance(self.augment, AugmentConfig):
            raise ValueError(f"augment {self.augment!r}: give text such as crop=0.3:1,blur=0.5, or an AugmentConfig")
        object.__setattr__(self, "encoder", str(self.encoder))
        for name, known in (
            ("objective", tuple(OBJECTIVES)),
            ("positives", POSITIVES),
            ("optimizer", OPTIMIZERS),
            ("precision", PRECISIONS),
            ("order", ORDERS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}: choose one of {', '.join(known)}")
        check_encoder(self.encoder)
        count_real(self.batch_size, self.mix_share)  # refuses a share that leaves none of one kind
        if self.mix_share > 0 and self.positives in ("tz", "shuffled"):
            raise ValueError(
                f"positives {self.positives}: real images have no positives but augmentations of themselves; "
                "mix them in with --positives both or tx"
            )
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate {self.accumulate}: a batch of {self.batch_size} groups does not divide into as many parts"
            )

    @property
    def num_real(self) -> int:
        """Groups of a batch that are real images."""
        return count_real(self.batch_size, self.mix_share)

    @property
    def num_generated(self) -> int:
        """Groups of a batch that are generated."""
        return self.batch_size - self.num_real

    def check_processes(self, count: int) -> None:
        """Raises ValueError unless both kinds of groups of a batch divide among so many processes, in every part."""
        shares = count * self.accumulate
        if self.num_generated % shares or self.num_real % shares:
            mixed = f" with {self.num_real} real images" if self.num_real else ""
            raise ValueError(
                f"batch size {self.batch_size}{mixed} does not divide among {count} processes"
                + (f" in {self.accumulate} parts" if self.accumulate > 1 else "")
                + f": use {'another --batch-size or --mix' if mixed else 'a multiple'}"
            )

    def to_json(self) -> dict[str, JSON]:
        """Plain mapping, fit for json.dumps."""
        data = dataclasses.asdict(self)
        data["augment"] = {name: list(v) if isinstance(v, tuple) else v for name, v in data["augment"].items()}
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, JSON]) -> TrainConfig:
        """The inverse of to_json.

        Raises:
            ValueError: a field is unknown or out of its range.
        """
        unknown = set(data) - {f.name for f in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(f"the run has settings that this version does not know: {', '.join(sorted(unknown))}")
        augment: dict[str, JSON] = {name: tuple(v) if isinstance(v, list) else v for name, v in data["augment"].items()}
        return cls(**{**data, "augment": AugmentConfig(**augment)})


class TrainSettings(TypedDict, total=False):
    """Fields of TrainConfig as keywords, for those that are given."""

    objective: str
    positives: str
    encoder: str
    batch_size: int | str
    accumulate: int
    optimizer: str
    learning_rate: float
    weight_decay: float
    warmup: float
    temperature: float
    head_hidden_dim: int
    head_dim: int
    sync_batchnorm: bool
    augment: str | AugmentConfig
    seed: int


def steps_of(
    *,
    samples: int | str | None,
    steps: int | str | None,
    epochs: float | None,
    num_groups: int,
    batch_size: int,
    num_generated: int | None = None,
) -> int:
    """Optimiser steps of a duration given in exactly one of three ways: groups seen, steps, or passes over the groups.

    A pass is num_groups // num_generated steps: the incomplete batch at its end is dropped.

    Args:
        num_generated: groups of a batch that come from the dataset of num_groups; all of them when None.

    Raises:
        ValueError: none or several are given, or the duration is shorter than one step.
    """
    given = [name for name, value in (("samples", samples), ("steps", steps), ("epochs", epochs)) if value is not None]
    if len(given) != 1:
        raise ValueError(f"give exactly one of --samples, --steps and --epochs (given: {', '.join(given) or 'none'})")
    steps_per_epoch = count_steps_per_epoch(num_groups, num_generated or batch_size)
    if steps is not None:
        count = check_whole("steps", steps, 1)
    elif samples is not None:
        count = check_whole("samples", samples, 1) // batch_size
    else:
        count = round(check_number("epochs", epochs, 0, above=True, such_as="5") * steps_per_epoch)
    if count < 1:
        raise ValueError(
            f"--{given[0]} is shorter than one step of {batch_size} groups: train longer or use a smaller batch"
        )
    return count

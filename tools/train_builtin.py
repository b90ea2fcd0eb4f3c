"""Train the built-in generator, biggan-deep-32, on the 50,000 training images of CIFAR-10.

Hinge loss, spectral norm, a projection discriminator, DiffAugment, horizontal flips, bf16, an exponential moving
average of the generator's weights, and a learning rate that falls to zero over the last part of the run. On a GPU one
whole training step (discriminator updates, generator update, average) is captured as one CUDA graph, so that Python
costs nothing.

    contrast data cifar10 --out datasets/cifar10
    python tools/train_builtin.py --data datasets/cifar10 --out runs/builtin --export synthgen/adapters/weights

State is written every minute. Stopped, or ended by --minutes, the same command goes on from there; after the last step
it writes the two files of the package. Only training images are read.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from dataclasses import asdict
from pathlib import Path

import builtin_networks
import click
import numpy as np
import torch
from builtin_networks import export_generator, generator_config
from classifier import WEIGHTS, score
from gan_training import GanTraining, TrainingConfig, capture
from measuring import Program
from safetensors.torch import save_file
from torch import Tensor
from torchvision.utils import save_image

PRESETS: dict[str, dict[str, object]] = {
    "gpu": {
        "steps": 26_000,
        "batch_size": 128,
        "generator_size": "large",
        "trunk": "residual",
        "discriminator_width": 192,
        "discriminator_steps": 2,
        "generator_learning_rate": 2e-4,
        "discriminator_learning_rate": 2e-4,
        "augment": True,
        "class_weight": 0.0,
        "average_decay": 0.9998,
    },
    "cpu": {
        "steps": 8_000,
        "batch_size": 64,
        "generator_size": "small",
        "trunk": "strided",
        "discriminator_width": 32,
        "discriminator_steps": 1,
        "generator_learning_rate": 3e-4,
        "discriminator_learning_rate": 4e-4,
        "augment": False,
        "class_weight": 0.1,
        "average_decay": 0.999,
    },
}
"""What fits ten-minute slots of a GPU, and a size to try the program on a CPU (not trained to the end yet)."""


def write_sheet(images: Tensor, path: Path, *, num_classes: int) -> None:
    """A sheet with a row per class, from images whose labels run 0, 1, … C-1, 0, 1, …"""
    columns = len(images) // num_classes
    rows = images[: columns * num_classes].view(columns, num_classes, *images.shape[1:]).transpose(0, 1).flatten(0, 1)
    save_image(rows.permute(0, 3, 1, 2).float() / 255, path, nrow=columns, padding=1)


def export(gan: GanTraining, directory: Path, *, name: str, samples_per_row: int, training: dict[str, object]) -> None:
    """Write NAME.safetensors and NAME.json, the two files that the package ships."""
    torch.backends.cudnn.allow_tf32 = False  # statistics in full precision
    draw = torch.Generator(gan.device).manual_seed(2)
    batch_size = min(500, samples_per_row)
    state = export_generator(gan.average, samples_per_row=samples_per_row, batch_size=batch_size, draw_latents=draw)
    # Weights in half precision; the statistics stay in full: their range is not the weights'.
    narrow = {key: (value if "running_" in key else value.half()).cpu().contiguous() for key, value in state.items()}
    directory.mkdir(parents=True, exist_ok=True)
    save_file(narrow, directory / f"{name}.safetensors")
    digest = hashlib.sha256((directory / f"{name}.safetensors").read_bytes()).hexdigest()
    card = {
        "class_names": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
        "config": generator_config(gan.config.generator_size),
        "sha256": digest,
        "training": training,
    }
    (directory / f"{name}.json").write_text(json.dumps(card, indent=2) + "\n")


main = Program()


@main.command(help=(__doc__ or "").split("\n\n")[0])
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of `contrast data cifar10`.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for state, log and sheets.")
@click.option("--export", "export_to", type=click.Path(path_type=Path), help="Where the finished generator goes, too.")
@click.option("--preset", type=click.Choice(list(PRESETS)), default="gpu", show_default=True, help="Sizes and rates.")
@click.option("--steps", type=int, help="Generator updates of the whole run, instead of the preset's.")
@click.option("--batch-size", type=int, help="Instead of the preset's.")
@click.option("--seed", default=0, show_default=True)
@click.option("--minutes", default=float("inf"), help="Stop after so many minutes; run again to go on.")
@click.option("--score-every", default=4000, show_default=True, help="Steps between two scores and sheets.")
@click.option("--score-samples", default=10_000, show_default=True, help="Images behind each score.")
@click.option("--classifier", type=click.Path(path_type=Path), default=WEIGHTS, help="The judge: tools/classifier.py.")
@click.option("--compile", "compiled", is_flag=True, help="Fuse the norms: faster on a GPU, a minute slower to start.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--samples-per-row", default=3000, show_default=True, help="Samples behind each row of statistics.")
def train(
    data: Path,
    out: Path,
    export_to: Path | None,
    preset: str,
    steps: int | None,
    batch_size: int | None,
    seed: int,
    minutes: float,
    score_every: int,
    score_samples: int,
    classifier: Path,
    compiled: bool,
    device: str,
    samples_per_row: int,
) -> None:
    began = time.monotonic()
    chosen = {"steps": steps, "batch_size": batch_size, "seed": seed}
    config = TrainingConfig(**PRESETS[preset] | {name: value for name, value in chosen.items() if value is not None})
    torch.backends.cudnn.benchmark = True
    if compiled:
        torch._dynamo.config.recompile_limit = 64  # one for every shape of a norm
        builtin_networks.normalise_and_modulate = torch.compile(builtin_networks.normalise_and_modulate, dynamic=False)
    images = torch.from_numpy(np.load(data / "train-images.npy"))
    labels = torch.from_numpy(np.load(data / "train-labels.npy")).long()
    gan = GanTraining(config, images, labels, torch.device(device))
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, log = out / "state.pt", out / "log.jsonl"
    seconds_before = 0.0
    if checkpoint.exists():
        gan.load(checkpoint)
        rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        seconds_before = rows[-1]["seconds"] if rows else 0.0
        click.echo(f"going on from step {gan.step} of {config.steps}", err=True)

    def report(*, step_seconds: float, due: bool) -> None:
        row: dict[str, object] = {
            "step": gan.step,
            "seconds": round(seconds_before + time.monotonic() - began, 1),
            "images_per_second": round(config.batch_size / step_seconds, 1),
            "loss_d": round(gan.losses[0].item(), 4),
            "loss_g": round(gan.losses[1].item(), 4),
            "loss_classes": round(gan.losses[2].item(), 4),
        }
        if due:
            made, made_labels = gan.sample(score_samples)
            write_sheet(made[:200], out / f"samples-{gan.step:06d}.png", num_classes=10)
            row |= score(classifier, made, made_labels, gan.images[:score_samples])
        with log.open("a") as file:
            file.write(json.dumps(row) + "\n")
        click.echo(json.dumps(row), err=True)

    if gan.step < config.steps:  # capturing makes a few updates, which a finished generator must not
        update = capture(gan)
        saved = reported = time.monotonic()
        reported_step = gan.step
        while gan.step < config.steps and time.monotonic() - began < 60 * minutes:
            gan.schedule()
            update()
            if gan.step % 100 == 0 and not gan.losses.isfinite().all():  # syncs the device
                raise click.ClickException(f"the losses are not finite at step {gan.step}; {checkpoint} is as before")
            due = gan.step % score_every == 0 or gan.step == config.steps
            if due or time.monotonic() - reported > 10:
                report(step_seconds=(time.monotonic() - reported) / (gan.step - reported_step), due=due)
                reported, reported_step = time.monotonic(), gan.step
            if time.monotonic() - saved > 60:
                gan.save(checkpoint)
                saved = time.monotonic()
        gan.save(checkpoint)
        write_sheet(gan.sample(200)[0], out / "samples.png", num_classes=10)
    if gan.step < config.steps:
        click.echo(f"step {gan.step} of {config.steps}: the same command goes on", err=True)
    elif export_to is not None:
        hardware = torch.cuda.get_device_name() if device.startswith("cuda") else f"{platform.machine()} CPU"
        seconds = round(seconds_before + time.monotonic() - began, 1)
        training = {**asdict(config), "hardware": hardware, "torch": torch.__version__, "seconds": seconds}
        export(gan, export_to, name="biggan-deep-32", samples_per_row=samples_per_row, training=training)
        click.echo(f"{export_to}: biggan-deep-32.safetensors and its .json", err=True)


if __name__ == "__main__":
    main()

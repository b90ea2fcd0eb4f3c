"""A generator in a file: --generator faces.pt2, a program saved by torch.export.save, without the code it came from.

    forward(latents [B, D])                      -> images [B, 3, H, H] in [-1, 1]
    forward(latents [B, D], labels [B] int64)    … with num_classes in its synthgen.json
    forward(latents [B, D], one_hot [B, C])      … with floating point rows

Latents may also be [B, D, 1, 1]. `synthgen.adapters.program_export` makes such a file from a network.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_structure

from shards.errors import describe_error
from synthgen.adapters.own_generator import OwnGenerator
from synthgen.adapters.program_files import EXTRA_NAME, read_program_file


def load_program(name: str, *, weights: Path | None, device: torch.device, dtype: str) -> OwnGenerator:
    """The generator that a program is. Its number format is the one it was exported in.

    Args:
        name: path of the file; the recipe takes the file's name alone.
        weights: where the file lies, a folder or the file itself, where `name` is not a path to it.

    Raises:
        ValueError: there is no such file, it may not be loaded, or it is not such a function.
    """
    path = Path(name) if weights is None else weights / Path(name).name if weights.is_dir() else weights
    file = read_program_file(path)
    name = Path(name).name
    with _torch_logs() as logged:
        try:
            program = torch.export.load(file.archive)
        except Exception as error:
            cause = logged[0] if logged else error
            raise ValueError(
                f"{path} cannot be loaded by torch {torch.__version__} ({describe_error(cause)}): export it again "
                "with this version"
            ) from error
    model = _ProgramModel(program, name, file.extra)
    if dtype not in ("auto", model.dtype):
        raise ValueError(f"{name} was exported in {model.dtype}: omit --dtype, or export it in {dtype}")
    model.place(program, device)
    return OwnGenerator(
        model, name=name, weights_sha256=file.sha256, dtype=model.dtype, fixed_batch_size=model.fixed_batch_size
    )


class _ProgramModel:
    """What a program's signature says of it, and how to call it."""

    def __init__(self, program: Any, name: str, extra: Any) -> None:
        self._name = name
        if program.graph_signature.buffers_to_mutate:
            raise self._unfit(
                f"it changes {next(iter(program.graph_signature.buffers_to_mutate.values()))} at every pass",
                "export the network in eval mode",
            )
        values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
        inputs = [values[input_name] for input_name in program.graph_signature.user_inputs]
        outputs = next(node for node in program.graph.nodes if node.op == "output").args[0]
        image = outputs[0].meta["val"] if len(outputs) == 1 and hasattr(outputs[0], "meta") else None
        if len(inputs) not in (1, 2) or not all(isinstance(value, Tensor) for value in inputs):
            raise self._unfit(f"it takes {len(inputs)} inputs", "export a forward(latents) or forward(latents, labels)")
        if program.call_spec.in_spec != tree_structure(((0,) * len(inputs), {})):
            raise self._unfit("it takes keywords or nested inputs", "export it with positional tensors")
        if not isinstance(image, Tensor) or not program.call_spec.out_spec.is_leaf():
            raise self._unfit("it gives more than one tensor", "export a forward that returns the images alone")
        self._read_latents(inputs[0])
        self._read_images(image)
        self._read_classes(inputs[1] if len(inputs) == 2 else None, extra)
        batches = {str(value.shape[0]) for value in (*inputs, image)}
        if len(batches) != 1:
            raise self._unfit(
                f"its batch sizes differ ({', '.join(sorted(batches))})",
                "export it with one dynamic batch dimension for inputs and images",
            )
        batch = inputs[0].shape[0]
        self.fixed_batch_size = int(batch) if isinstance(batch, int) else None
        self.dtype = self._weights_dtype(program)

    def sample(self, latents: Tensor, labels: Tensor) -> Tensor:
        latents = latents.to(self._latents_dtype).reshape(len(latents), *self._latent_shape)
        if self._class_input is None:
            return self._module(latents)
        if self._class_input == torch.int64:
            return self._module(latents, labels)
        return self._module(latents, F.one_hot(labels, self.num_classes).to(self._class_input))

    def place(self, program: Any, device: torch.device) -> None:
        """Moves the program, constants inside its graph included, and makes it callable."""
        if device.type != "cpu" or any(t.device.type != "cpu" for t in program.state_dict.values()):
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, str(device))
        with warnings.catch_warnings():
            # Torch 2.6 warns of every constant of a graph, whose place in the module it fills in a moment later.
            warnings.filterwarnings("ignore", message=r"Attempted to insert a get_attr|Node .* does not reference")
            self._module = program.module().requires_grad_(False)

    def _read_latents(self, latents: Tensor) -> None:
        shape = list(latents.shape)
        fits = len(shape) == 2 or (len(shape) == 4 and shape[2:] == [1, 1])
        if not latents.is_floating_point() or not fits or not isinstance(shape[1], int):
            raise self._unfit(f"its latents are {_text(latents)}", "export it for latents [batch, D], floating point")
        self.latent_dim, self._latent_shape, self._latents_dtype = shape[1], shape[1:], latents.dtype

    def _read_images(self, image: Tensor) -> None:
        shape = list(image.shape)
        static = len(shape) == 4 and all(isinstance(length, int) for length in shape[1:])
        if not image.is_floating_point() or not static or shape[1] != 3 or shape[2] != shape[3]:
            raise self._unfit(f"its images are {_text(image)}", "export it to give [batch, 3, H, H] in [-1, 1]")
        self.image_size = shape[2]

    def _read_classes(self, labels: Tensor | None, extra: Any) -> None:
        self._class_input = None if labels is None else labels.dtype
        names = extra.get("class_names", [])
        self.class_names: list[str] = names if isinstance(names, list) else []
        if labels is None:
            self.num_classes, self.class_names = 0, []
        elif labels.is_floating_point() and labels.ndim == 2 and isinstance(labels.shape[1], int):
            self.num_classes = labels.shape[1]
        elif labels.dtype == torch.int64 and labels.ndim == 1:
            self.num_classes = extra.get("num_classes", len(self.class_names))
            if not self.num_classes:
                raise self._unfit(
                    "it takes class ids and does not say how many classes there are",
                    f"save it with extra_files={{'{EXTRA_NAME}': '{{\"num_classes\": 10}}'}}",
                )
        else:
            raise self._unfit(
                f"its classes are {_text(labels)}", "export it for ids [batch] int64, or one-hot rows [batch, C]"
            )

    def _weights_dtype(self, program: Any) -> str:
        """The number format of most of its numbers, for the record; float32 where it has none."""
        sizes: dict[torch.dtype, int] = {}
        for tensor in program.state_dict.values():
            if tensor.is_floating_point():
                sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.numel()
        dtype = str(max(sizes, key=lambda key: sizes[key]) if sizes else torch.float32).removeprefix("torch.")
        if dtype not in ("float32", "bfloat16"):
            raise self._unfit(f"its weights are {dtype}", "export it in float32 or bfloat16")
        return dtype

    def _unfit(self, what: str, fix: str) -> ValueError:
        return ValueError(f"{self._name}: {what}: {fix} (see docs/bring-your-own-generator.md)")


def _text(tensor: Tensor) -> str:
    return f"[{', '.join(str(length) for length in tensor.shape)}] {str(tensor.dtype).removeprefix('torch.')}"


class _ErrorCollector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.errors: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.errors.append(record.exc_info[1])


@contextmanager
def _torch_logs() -> Iterator[list[BaseException]]:
    """Keeps torch's own warnings about older archives off the screen, and gives the errors that it logs but hides."""
    logger, collector = logging.getLogger("torch.export"), _ErrorCollector()
    propagate, logger.propagate = logger.propagate, False
    handlers, logger.handlers = logger.handlers, [collector]
    try:
        yield collector.errors
    finally:
        logger.propagate, logger.handlers = propagate, handlers

"""Networks with weights: random ones, semraft's checkpoints, the public RAFT .pth files, torchvision's RAFT.

Loading is strict. A layout differs from ours in the names of tensors alone, one to one. Heads and the
conditioning on classes exist in our layout only and are recognised by their tensors: each is there whole or
not at all. A semraft checkpoint is a dictionary with `semraft` (the version, 1), `arch` and `model` (our
state dict), and the entries that training adds.
"""

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Required, TypedDict, TypeVar

import msgspec
import safetensors.torch
import torch
from torch import Tensor

from semraft.config import Conditioning, Head, ModelConfig, Precision
from semraft.models.conditioning import conditioning_of
from semraft.models.heads import is_of_head
from semraft.models.raft import ARCHITECTURES, RAFT
from semraft.models.tensor_files import read_tensors as read_tensors
from semraft.records import DamagedFile, shaped
from semraft.shipped import weights_file

CHECKPOINT_VERSION = 1


class Checkpoint(TypedDict, total=False):
    """The entries of a semraft checkpoint that a network is made of."""

    semraft: Required[int]
    arch: Required[Literal["large", "small", "tiny"]]
    model: Required[dict[str, Tensor]]
    validation_updates: Annotated[int, msgspec.Meta(ge=1)]
    precision: Precision


C = TypeVar("C")


class Extras(NamedTuple):
    """Optional parts of a network beside those of a RAFT."""

    heads: tuple[Head, ...] = ()
    conditioning: Conditioning = "none"


PLAIN = Extras()

Layout = Literal["semraft", "princeton", "torchvision"]

RENAMES: dict[Layout, tuple[tuple[str, str], ...]] = {
    "semraft": (),
    "princeton": (
        ("feature_encoder.", "fnet."),
        ("context_encoder.", "cnet."),
        ("stem.", "conv1."),
        ("stem_norm.", "norm1."),
        ("stages.0.", "layer1."),
        ("stages.1.", "layer2."),
        ("stages.2.", "layer3."),
        ("shortcut.", "downsample."),
        ("project.", "conv2."),
        ("motion_encoder.correlation.0.", "encoder.convc1."),
        ("motion_encoder.correlation.2.", "encoder.convc2."),
        ("motion_encoder.flow.0.", "encoder.convf1."),
        ("motion_encoder.flow.2.", "encoder.convf2."),
        ("motion_encoder.merge.", "encoder.conv."),
        ("recurrent_units.0.update_gate.", "gru.convz1."),
        ("recurrent_units.0.reset_gate.", "gru.convr1."),
        ("recurrent_units.0.candidate.", "gru.convq1."),
        ("recurrent_units.1.update_gate.", "gru.convz2."),
        ("recurrent_units.1.reset_gate.", "gru.convr2."),
        ("recurrent_units.1.candidate.", "gru.convq2."),
        ("flow_head.0.", "flow_head.conv1."),
        ("flow_head.2.", "flow_head.conv2."),
        ("mask_head.layers.", "update_block.mask."),
    ),
    "torchvision": (
        ("stem.", "convnormrelu.0."),
        ("stem_norm.", "convnormrelu.1."),
        ("stages.0.", "layer1."),
        ("stages.1.", "layer2."),
        ("stages.2.", "layer3."),
        (".conv1.", ".convnormrelu1.0."),
        (".conv2.", ".convnormrelu2.0."),
        (".conv3.", ".convnormrelu3.0."),
        (".norm1.", ".convnormrelu1.1."),
        (".norm2.", ".convnormrelu2.1."),
        ("shortcut.", "downsample."),
        ("project.", "conv."),
        ("motion_encoder.correlation.0.", "motion_encoder.convcorr1.0."),
        ("motion_encoder.correlation.2.", "motion_encoder.convcorr2.0."),
        ("motion_encoder.flow.0.", "motion_encoder.convflow1.0."),
        ("motion_encoder.flow.2.", "motion_encoder.convflow2.0."),
        ("motion_encoder.merge.", "motion_encoder.conv.0."),
        ("recurrent_units.0.", "recurrent_block.convgru1."),
        ("recurrent_units.1.", "recurrent_block.convgru2."),
        ("update_gate.", "convz."),
        ("reset_gate.", "convr."),
        ("candidate.", "convq."),
        ("flow_head.0.", "flow_head.conv1."),
        ("flow_head.2.", "flow_head.conv2."),
        ("mask_head.layers.0.", "mask_predictor.convrelu.0."),
        ("mask_head.layers.2.", "mask_predictor.conv."),
    ),
}
"""Our part of a name -> the layout's, replaced in this order."""
WRAPPERS = ("model", "state_dict", "model_state_dict")
"""Entries of a checkpoint with the state dict: of torchvision's training, of Lightning, and others."""
PREFIXES = ("module.", "_orig_mod.", "raft.", "model.")
"""Prefixes of all names: of DistributedDataParallel, torch.compile, and networks inside another module."""

CANDIDATES: tuple[tuple[Layout, str], ...] = (
    *(("semraft", arch) for arch in ARCHITECTURES),
    ("princeton", "large"),
    ("princeton", "small"),
    ("torchvision", "large"),
    ("torchvision", "small"),
)


def settle_batch_norm(config: ModelConfig) -> ModelConfig:
    """The configuration with `batch_norm=auto` resolved: frozen for given weights, else trained."""
    resolved: Literal["train", "freeze"] = "freeze" if config.weights else "train"
    return replace(config, batch_norm=resolved) if config.batch_norm == "auto" else config


def build_model(config: ModelConfig, seed: int) -> RAFT:
    """The network a run starts from: given weights, or random ones that `seed` determines.

    Raises:
        ValueError: The weights are for another architecture, don't fit strictly, or have a head or a
            conditioning that the configuration does not name.
    """
    if config.weights:
        model = load_model(config.weights, arch=config.arch)
        if unnamed := [head for head in model.heads if head not in config.heads]:
            raise ValueError(
                f"{config.weights} has the head {' and '.join(unnamed)}, which --model.heads "
                f"({' '.join(config.heads) or 'empty'}) does not name: name it, or take other weights"
            )
        if model.conditioning not in ("none", config.conditioning):
            raise ValueError(
                f"{config.weights} is conditioned on classes of {model.conditioning}: give "
                f"--model.conditioning {model.conditioning}, or take other weights"
            )
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = ARCHITECTURES[config.arch]()
    # After all other weights: one seed gives networks with and without heads the same ones.
    model.add_heads(config.heads, seed).condition_on(config.conditioning)
    model.correlation, model.recompute = config.correlation, config.recompute
    return model.freeze_batch_norm() if settle_batch_norm(config).batch_norm == "freeze" else model


def load_model(source: Path | str | Mapping[str, Any], arch: str | None = None) -> RAFT:
    """The network of the given weights, in training mode.

    Args:
        source: A shipped name ("" is the default), a file, or what is in one.
        arch: The architecture that the weights must have, if given.

    Raises:
        DamagedFile: See `load_state`.
        ValueError: See `load_state`; or the weights are of another architecture than `arch`, or not finite.
    """
    file = weights_file(str(source)) if isinstance(source, str | Path) else None
    tensors = source if file is None else read_tensors(file)
    try:
        return _model_of(tensors, arch)
    except ValueError as error:
        raise error if file is None else DamagedFile(file, str(error)) from error


def _model_of(tensors: Any, arch: str | None) -> RAFT:
    found, state = load_state(tensors)
    if broken := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise ValueError(f"the weights hold NaN or Inf, in {shorten(broken)}: take an earlier checkpoint")
    if arch not in (None, found):
        raise ValueError(f"the weights are of RAFT {found}, asked for was {arch} (--model.arch)")
    model = bare(found, extras_of(state))
    model.load_state_dict(state)
    model.validation_updates = int(tensors.get("validation_updates", model.validation_updates))
    model.validation_precision = str(tensors.get("precision", model.validation_precision))
    return model


def bare(arch: str, extras: Extras) -> RAFT:
    """A network before its weights are loaded."""
    return ARCHITECTURES[arch]().add_heads(extras.heads, seed=0).condition_on(extras.conditioning)


def extras_of(state: Mapping[str, Any]) -> Extras:
    """The optional parts of a network, by the names of its tensors in our layout."""
    return Extras(heads_of(state), conditioning_of(state))


def heads_of(names: Iterable[str]) -> tuple[Head, ...]:
    """The heads of a network, by the names of its tensors."""
    parts = {tuple(name.split(".")[:2]) for name in names if is_of_head(name)}
    heads: list[Head] = ["occlusion"] if ("occlusion_head", "layers") in parts else []
    if any(part[0] == "decoder" for part in parts):
        heads.append("decoder-down" if ("decoder", "down") in parts else "decoder")
    return tuple(heads)


def load_state(source: Path | str | Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """The architecture and our state dict of a file, of a checkpoint or of a state dict in any layout.

    Raises:
        DamagedFile: A file that torch can't read, or that holds more than tensors and plain values.
        ValueError: Tensors missing, unexpected or of another shape than the network's, by name.
    """
    if isinstance(source, str | Path):
        source = read_tensors(source)
    if not isinstance(source, Mapping):
        raise ValueError(f"expected a dictionary of tensors, got {type(source).__name__}")
    if "semraft" not in source:
        return convert(unwrapped(source))
    checkpoint = checked_checkpoint("the checkpoint", source, Checkpoint)
    check(checkpoint["model"], "semraft", checkpoint["arch"])
    return checkpoint["arch"], dict(checkpoint["model"])


def checked_checkpoint(path: Path | str, source: Any, shape: type[C]) -> C:
    """The content of a checkpoint, of this version and shape.

    Raises:
        DamagedFile: Another version or shape.
    """
    if not isinstance(source, Mapping) or "semraft" not in source:
        raise DamagedFile(path, "is no semraft checkpoint")
    if source["semraft"] != CHECKPOINT_VERSION:
        found = f"is of version {source['semraft']}"
        raise DamagedFile(path, f"{found}, this semraft reads {CHECKPOINT_VERSION}: update it")
    return shaped(Path(path), source, shape)


def unwrapped(source: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state dict inside a checkpoint of other code, without prefixes that all its names share."""
    while inner := [source[name] for name in WRAPPERS if isinstance(source.get(name), Mapping)]:
        source = inner[0]
    while shared := [prefix for prefix in PREFIXES if source and all(n.startswith(prefix) for n in source)]:
        source = {name.removeprefix(shared[0]): value for name, value in source.items()}
    return source


def convert(state: Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """Recognises layout and architecture by names and shapes; gives the architecture and our state dict.

    Raises:
        ValueError: See `load_state`.
    """
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"expected a dictionary of tensors, its keys are {shorten(state)}")
    found = {(name, value.shape) for name, value in state.items()}
    layout, arch = max(CANDIDATES, key=lambda pair: len(found & expected_shapes(*pair).items()))
    if not found & expected_shapes(layout, arch).items():
        raise ValueError(f"not the weights of a RAFT that semraft knows: its tensors are {shorten(state)}")
    check(state, layout, arch)
    known = names(layout, arch, extras_of(state) if layout == "semraft" else PLAIN)
    return arch, {ours: state[theirs] for ours, theirs in known.items()}


def half_precision(state: Mapping[str, Tensor], layout: Layout, arch: str) -> bytes:
    """The content of a .safetensors file with our state dict in another layout, rounded to float16.

    Raises:
        ValueError: A weight beyond 65504, the largest float16.
    """
    theirs = revert(state, layout, arch)
    halved = {name: value.half() if value.is_floating_point() else value for name, value in theirs.items()}
    too_large = [name for name, value in halved.items() if not value.isfinite().all()]
    if too_large:
        raise ValueError(f"weights that float16 does not hold: {shorten(too_large)}")
    content: bytes = safetensors.torch.save(dict(halved))
    return content


def revert(state: Mapping[str, Tensor], layout: Layout, arch: str) -> dict[str, Tensor]:
    """Our state dict in another layout: the inverse of `convert`."""
    theirs = {name: state[ours] for ours, name in names(layout, arch).items()}
    return theirs | {alias: theirs[name] for alias, name in aliases(layout, arch).items()}


@functools.cache
def names(layout: Layout, arch: str, extras: Extras = PLAIN) -> dict[str, str]:
    """Our name of every tensor -> the layout's name."""
    renamed = {}
    for ours in our_shapes(arch, extras):
        theirs = ours
        for part, replacement in RENAMES[layout]:
            theirs = theirs.replace(part, replacement)
        if (layout, arch) == ("princeton", "small"):  # Its only recurrent unit is not numbered.
            theirs = re.sub(r"gru\.(conv[zrq])1\.", r"gru.\1.", theirs)
        renamed[ours] = theirs
    return renamed


@functools.cache
def aliases(layout: Layout, arch: str) -> dict[str, str]:
    """Second names of one tensor: RAFT registers a shortcut's batch norm in the block and in the shortcut."""
    if layout != "princeton":
        return {}
    shortcuts = [name for name in names(layout, arch).values() if "downsample.1." in name]
    return {name.replace("downsample.1.", "norm3."): name for name in shortcuts}


@functools.cache
def our_shapes(arch: str, extras: Extras = PLAIN) -> dict[str, torch.Size]:
    with torch.device("meta"):
        model = bare(arch, extras)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


@functools.cache
def expected_shapes(layout: Layout, arch: str, extras: Extras = PLAIN) -> dict[str, torch.Size]:
    shapes = {theirs: our_shapes(arch, extras)[ours] for ours, theirs in names(layout, arch, extras).items()}
    return shapes | {alias: shapes[name] for alias, name in aliases(layout, arch).items()}


def check(state: Mapping[str, Tensor], layout: Layout, arch: str) -> None:
    """Raises ValueError unless the state dict has exactly the layout's tensors, aliases equal."""
    expected = expected_shapes(layout, arch, extras_of(state) if layout == "semraft" else PLAIN)
    faults = []
    if missing := expected.keys() - state.keys():
        faults.append(f"missing {shorten(missing)}")
    if unexpected := state.keys() - expected.keys():
        faults.append(f"unexpected {shorten(unexpected)}")
    for name in sorted(expected.keys() & state.keys()):
        if state[name].shape != expected[name]:
            faults.append(f"{name} is {tuple(state[name].shape)}, expected {tuple(expected[name])}")
        elif not _is_plain(name, state[name]):
            faults.append(f"{name} is {state[name].dtype}, {state[name].layout}, {state[name].device}")
    for alias, name in aliases(layout, arch).items():
        if not faults and not torch.equal(state[alias], state[name]):
            faults.append(f"{alias} and {name} are one tensor of the network but differ")
    if faults:
        raise ValueError(f"weights of RAFT {arch} in the {layout} layout: " + "; ".join(faults))


def _is_plain(name: str, tensor: Tensor) -> bool:
    """Whether it has values here, real ones; counts of batches are whole numbers."""
    is_count = name.endswith("num_batches_tracked")
    has_values = tensor.layout == torch.strided and tensor.device.type != "meta" and not tensor.is_quantized
    return has_values and not tensor.is_complex() and tensor.is_floating_point() != is_count


def shorten(keys: Any) -> str:
    """The first eight names, sorted, and how many more there are."""
    listed = sorted(map(str, keys))
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")

"""A network as a graph of tensor operations, for programs without semraft: torch.export and ONNX."""

import copy
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from semraft.inference import on_device
from semraft.models.encoder import STRIDE
from semraft.models.raft import MIN_SIZE_PX, RAFT
from semraft.products.conversion import made_pair

ExportFormat = Literal["onnx", "torch-export"]
MAX_SIZE_PX = 8192


class FlowOfFrames(nn.Module):
    """A network with frames as cameras give them: uint8 RGB in, flow in pixels out, channels last."""

    def __init__(self, model: RAFT, num_updates: int) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.model.correlation = "all-pairs"  # The windows on demand are compiled loops.
        self.num_updates = num_updates

    def forward(self, image1: UInt8[Tensor, "1 H W 3"], image2: UInt8[Tensor, "1 H W 3"]) -> Tensor:
        frames = [image.permute(0, 3, 1, 2).float() for image in (image1, image2)]
        flow: Float[Tensor, "1 2 H W"] = self.model(*frames, self.num_updates, keep="last").flows[0]
        return flow.permute(0, 2, 3, 1)


def export_network(model: RAFT, out: Path, kind: ExportFormat, num_updates: int) -> float | None:
    """Writes the network as a graph with a fixed number of refinements, for frames of any size.

    Inputs `image1` and `image2` are uint8 1 H W 3, RGB; H and W are multiples of 8, at least 64. The output
    `flow` is float32 1 H W 2. Heads are left out.

    Returns:
        The largest difference, in pixels, to semraft's flow of a made pair of another size than the exported
        one; None without onnxruntime.

    Raises:
        ValueError: A network that is conditioned on true labels, or ONNX without the extra `export`.
    """
    if model.conditioning == "truth":
        raise ValueError("the network is conditioned on true labels, which an exported one has no input for")
    image1, image2 = (image[None] for image in made_pair())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Those of torch about its own code.
        program = graph_of(model, num_updates)
        if kind == "onnx":
            write_onnx(program, out)
        else:
            torch.export.save(program, out)
            graph = torch.export.load(out).module()
    if kind == "torch-export":
        flow = graph(torch.from_numpy(image1), torch.from_numpy(image2)).numpy()
    else:
        try:
            import onnxruntime
        except ImportError:
            return None
        session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
        (flow,) = session.run(None, {"image1": image1, "image2": image2})
    expected = on_device(model, image1[0], image2[0], num_updates, keep="last").flows[0]
    return float(np.abs(flow - expected.permute(0, 2, 3, 1).numpy()).max())


def graph_of(model: RAFT, num_updates: int) -> torch.export.ExportedProgram:
    """The graph of a network, its frames' height and width free."""
    height, width = (
        STRIDE * torch.export.Dim(name, min=MIN_SIZE_PX // STRIDE, max=MAX_SIZE_PX // STRIDE)
        for name in ("rows", "columns")
    )
    frame = torch.zeros(1, MIN_SIZE_PX + 2 * STRIDE, MIN_SIZE_PX + 3 * STRIDE, 3, dtype=torch.uint8)
    with torch.no_grad():
        return torch.export.export(
            FlowOfFrames(model, num_updates).eval(),
            (frame, frame.clone()),
            dynamic_shapes=({1: height, 2: width},) * 2,
            strict=False,
        )


def write_onnx(program: torch.export.ExportedProgram, out: Path) -> None:
    """Writes a graph as one ONNX file."""
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError("ONNX needs the extra: pip install 'semraft[export]'") from error
    exported = torch.onnx.export(
        program, input_names=["image1", "image2"], output_names=["flow"], dynamo=True, verbose=False
    )
    assert exported is not None
    exported.save(out)

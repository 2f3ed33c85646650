"""Flow to arrays and back: round trips, each format's invalid pixels, what each format can get wrong."""

import io
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semraft.data.files.formats import Encoding, read_flow, read_pfm, write_flow, write_pfm
from semraft.sample import DamagedFile
from tests.unit.data.fake_trees import png16

HEIGHT, WIDTH = 7, 11
FORMATS: list[tuple[str, Encoding | None]] = [
    ("flow.flo", None),
    ("flow.pfm", None),
    ("kitti.png", "kitti"),
    ("virtual.png", "virtual-kitti"),
    ("flow.npz", None),
]


@pytest.fixture
def flow(rng: np.random.Generator) -> np.ndarray:
    """u and v of different spread and mean, inside every encoding's range (Virtual KITTI: 10 and 6 px)."""
    u = rng.uniform(-9, 7, (HEIGHT, WIDTH))
    v = rng.uniform(-2, 5, (HEIGHT, WIDTH))
    return np.stack([u, v], axis=-1).astype(np.float32)


@pytest.fixture
def valid(rng: np.random.Generator) -> np.ndarray:
    return rng.random((HEIGHT, WIDTH)) > 0.3


# --- round trips


@pytest.mark.parametrize(("name", "encoding"), FORMATS)
def test_round_trip_keeps_validity_and_zeroes_the_rest(
    tmp_path: Path, flow: np.ndarray, valid: np.ndarray, name: str, encoding: Encoding | None
) -> None:
    """Red when: invalid pixels keep the format's own sign for unknown (1e10, NaN, -512)."""
    flow[~valid] = np.nan
    assert write_flow(tmp_path / name, flow, valid, encoding) == valid.sum()
    got, got_valid = read_flow(tmp_path / name, encoding)
    assert got.dtype == np.float32
    assert got_valid.dtype == np.bool_
    np.testing.assert_array_equal(got_valid, valid)
    assert (got[~valid] == 0).all()
    np.testing.assert_allclose(got[valid], flow[valid], atol=0.02)


@pytest.mark.parametrize("name", ["flow.flo", "flow.pfm"])
def test_flo_and_pfm_are_exact(tmp_path: Path, flow: np.ndarray, name: str) -> None:
    flow *= np.float32(1e5 / 3)
    write_flow(tmp_path / name, flow)
    np.testing.assert_array_equal(read_flow(tmp_path / name)[0], flow)


def test_kitti_is_exact_on_its_grid_and_within_half_a_step_off_it(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    """Red when: the writer truncates instead of rounding (a bias of -1/128 px)."""
    on_grid = rng.integers(-32768, 32768, (HEIGHT, WIDTH, 2)).astype(np.float32) / 64
    write_flow(tmp_path / "a.png", on_grid, encoding="kitti")
    np.testing.assert_array_equal(read_flow(tmp_path / "a.png", "kitti")[0], on_grid)

    off_grid = rng.uniform(-500, 500, (61, 83, 2)).astype(np.float32)
    write_flow(tmp_path / "b.png", off_grid, encoding="kitti")
    error = read_flow(tmp_path / "b.png", "kitti")[0].astype(np.float64) - off_grid
    assert np.abs(error).max() <= 1 / 128
    assert abs(error.mean()) < 1e-3


def test_virtual_kitti_is_within_half_a_step(tmp_path: Path, rng: np.random.Generator) -> None:
    """Red when: the writer truncates; the reader scales by W instead of W - 1."""
    height, width = 61, 1242
    flow = rng.uniform(-1, 1, (height, width, 2)) * (width - 1, height - 1)
    write_flow(tmp_path / "a.png", flow.astype(np.float32), encoding="virtual-kitti")
    error = np.abs(read_flow(tmp_path / "a.png", "virtual-kitti")[0] - flow)
    assert error[..., 0].max() <= 1.01 * (width - 1) / 65535  # 1 % for float32.
    assert error[..., 1].max() <= 1.01 * (height - 1) / 65535


def test_virtual_kitti_zero_is_not_representable(tmp_path: Path) -> None:
    write_flow(tmp_path / "a.png", np.zeros((375, 1242, 2), np.float32), encoding="virtual-kitti")
    got, valid = read_flow(tmp_path / "a.png", "virtual-kitti")
    assert valid.all()
    np.testing.assert_allclose(np.abs(got[0, 0]), (1241 / 65535, 374 / 65535), rtol=1e-3)


def test_viper_is_within_half_a_float16_step(tmp_path: Path, rng: np.random.Generator) -> None:
    flow = rng.uniform(-500, 500, (61, 83, 2)).astype(np.float32)
    write_flow(tmp_path / "a.npz", flow)
    got, valid = read_flow(tmp_path / "a.npz")
    assert valid.all()
    assert (np.abs(got - flow) <= np.abs(flow) * 2.0**-11).all()
    assert np.abs(got - flow).max() <= 1 / 8
    with np.load(tmp_path / "a.npz") as archive:
        assert {name: archive[name].dtype for name in archive.files} == {"u": np.float16, "v": np.float16}


@pytest.mark.parametrize(
    ("name", "encoding", "lowest", "highest", "too_low", "too_high"),
    [
        ("a.png", "kitti", -512, 65535 / 64 - 512, -512.01, 512.0),
        ("a.png", "virtual-kitti", 1 - WIDTH, WIDTH - 1, -WIDTH, WIDTH),
        ("a.npz", None, -511.75, 511.75, -512, 511.9),
        ("a.flo", None, -1e9, 1e9, -1.1e9, 1.1e9),
        ("a.pfm", None, -1e9, 1e9, -1.1e9, 1.1e9),
    ],
)
def test_what_an_encoding_can_not_hold_is_written_as_invalid(
    tmp_path: Path,
    name: str,
    encoding: Encoding | None,
    lowest: float,
    highest: float,
    too_low: float,
    too_high: float,
) -> None:
    """Red when: out-of-range flow is clipped to a wrong value called valid, or wraps around (RAFT's writer);
    only u is tested; 511.9, which float16 rounds to 512, is called written."""
    flow = np.ones((HEIGHT, WIDTH, 2), np.float32)
    flow[0, 1, 0], flow[0, 2, 0] = lowest, highest
    flow[1, 3, 0], flow[2, 4, 1], flow[3, 5, 0], flow[4, 6, 1] = too_low, too_low, too_high, too_high
    expected = np.ones((HEIGHT, WIDTH), bool)
    expected[(1, 2, 3, 4), (3, 4, 5, 6)] = False

    assert write_flow(tmp_path / name, flow, encoding=encoding) == expected.sum()
    got, valid = read_flow(tmp_path / name, encoding)
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_allclose(got[0, 1:3, 0], (lowest, highest), rtol=1e-6)


@given(
    st.integers(1, 9),
    st.integers(2, 9),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["a.flo", "a.pfm", "a.npz"]),
)
@settings(max_examples=30, deadline=None)
def test_a_second_round_trip_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, seed: int, name: str
) -> None:
    path = tmp_path_factory.mktemp("trip") / name
    rng = np.random.default_rng(seed)
    write_flow(path, rng.normal(0, 300, (height, width, 2)).astype(np.float32))
    flow, valid = read_flow(path)
    write_flow(path, flow, valid)
    again, valid_again = read_flow(path)
    np.testing.assert_array_equal(again, flow)
    np.testing.assert_array_equal(valid_again, valid)


# --- the bytes, from the definitions and not from our own writer


def test_flo_bytes(tmp_path: Path) -> None:
    """Red when: u and v, or width and height, change places."""
    path = tmp_path / "a.flo"
    path.write_bytes(struct.pack("<fii", 202021.25, 3, 2) + np.arange(12, dtype="<f4").tobytes())
    flow, valid = read_flow(path)
    np.testing.assert_array_equal(flow[1, 2], (10, 11))
    assert valid.all()
    write_flow(tmp_path / "b.flo", flow)
    assert (tmp_path / "b.flo").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("unknown", [1e10, 1.67e9, -1.1e9, np.nan, np.inf])
@pytest.mark.parametrize("component", [0, 1])
def test_flo_unknown_in_either_component_is_invalid(tmp_path: Path, unknown: float, component: int) -> None:
    """Red when: only u is tested; NaN compares its way through."""
    values = np.full((2, 3, 2), 5, "<f4")
    values[1, 2, component] = unknown
    (tmp_path / "a.flo").write_bytes(b"PIEH" + struct.pack("<ii", 3, 2) + values.tobytes())
    flow, valid = read_flow(tmp_path / "a.flo")
    assert valid.sum() == 5
    assert not valid[1, 2]
    np.testing.assert_array_equal(flow[1, 2], (0, 0))


def test_written_invalid_pixels_use_each_formats_own_sign(
    tmp_path: Path, flow: np.ndarray, valid: np.ndarray
) -> None:
    for name, encoding in FORMATS:
        write_flow(tmp_path / name, flow, valid, encoding)
    flo = np.frombuffer((tmp_path / "flow.flo").read_bytes(), "<f4", offset=12).reshape(HEIGHT, WIDTH, 2)
    assert (flo[~valid] == np.float32(1e10)).all()
    pfm = read_pfm(tmp_path / "flow.pfm")
    assert np.isnan(pfm[~valid][:, :2]).all()
    assert (pfm[..., 2] == 0).all()
    kitti = cv2.imread(str(tmp_path / "kitti.png"), cv2.IMREAD_UNCHANGED)
    assert (kitti[~valid] == (0, 32768, 32768)).all()  # As in the real files.
    assert (kitti[valid][:, 0] == 1).all()
    virtual = cv2.imread(str(tmp_path / "virtual.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(virtual[..., 0], np.where(valid, 65535, 0))
    with np.load(tmp_path / "flow.npz") as archive:
        assert np.isnan(archive["u"][~valid]).all()
        assert np.isnan(archive["v"][~valid]).all()


@pytest.mark.parametrize(("magic", "channels"), [("Pf", 1), ("PF", 3)])
@pytest.mark.parametrize(("scale", "kind"), [("-1.0", "<f4"), ("1", ">f4"), ("-0.5", "<f4")])
def test_pfm_has_its_rows_bottom_to_top(
    tmp_path: Path, magic: str, channels: int, scale: str, kind: str
) -> None:
    """Red when: the rows are not turned over; the sign of the scale is not read as the byte order."""
    values = np.arange(2 * 4 * channels, dtype=kind)
    (tmp_path / "a.pfm").write_bytes(f"{magic}\n4 2\n{scale}\n".encode() + values.tobytes())
    got = read_pfm(tmp_path / "a.pfm")
    assert got.shape == ((2, 4) if channels == 1 else (2, 4, 3))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got[1].ravel(), np.arange(4 * channels))
    write_pfm(tmp_path / "b.pfm", got)
    np.testing.assert_array_equal(read_pfm(tmp_path / "b.pfm"), got)
    assert (tmp_path / "b.pfm").read_bytes().endswith(values.astype("<f4").tobytes())


def test_kitti_png_values(tmp_path: Path) -> None:
    """Red when: blue and red change places, as OpenCV orders them; 16 bits are cut to 8."""
    flow, valid = read_flow(png16(tmp_path / "a.png", red=32768 + 130, green=32768 - 67, blue=1), "kitti")
    np.testing.assert_array_equal(flow, np.broadcast_to(np.float32((130 / 64, -67 / 64)), (5, 8, 2)))
    assert valid.all()


def test_virtual_kitti_png_values(tmp_path: Path) -> None:
    """Red when: W stands for W - 1, or width and height change places."""
    path = png16(tmp_path / "a.png", red=65535, green=13107, blue=7, height=11, width=21)
    flow, valid = read_flow(path, "virtual-kitti")
    np.testing.assert_allclose(flow, np.broadcast_to((20, (2 / 5 - 1) * 10), (11, 21, 2)), rtol=1e-6)
    assert valid.all()


@pytest.mark.parametrize(
    ("encoding", "blue", "expected"),
    [
        ("kitti", 0, False),
        ("kitti", 1, True),
        ("virtual-kitti", 0, False),
        ("virtual-kitti", 1, True),
        ("virtual-kitti", 65535, True),
    ],
)
def test_png_validity_is_a_third_channel_that_is_not_zero(
    tmp_path: Path, encoding: Encoding, blue: int, expected: bool
) -> None:
    """Red when: an invalid (0, 0, 0) comes back as -512 px; only 1, or only 65535, counts as valid."""
    flow, valid = read_flow(png16(tmp_path / "a.png", red=0, green=0, blue=blue), encoding)
    assert (valid == expected).all()
    assert (flow == 0).all() == (not expected)


def test_viper_npz_validity_needs_both_components_finite_and_below_512(tmp_path: Path) -> None:
    """Red when: only u is tested; Inf becomes 65504; 512 is let through; NaN is zero and valid."""
    u, v = np.full((2, 3, 5), 2.5, np.float16)
    v[:] = -7.5
    u[0] = np.nan, np.inf, -np.inf, 512, -512
    v[1] = np.nan, np.inf, -np.inf, 512, -512
    np.savez_compressed(tmp_path / "a.npz", u=u, v=v)
    flow, valid = read_flow(tmp_path / "a.npz")
    np.testing.assert_array_equal(valid, np.arange(3)[:, None] == np.full(5, 2))
    assert flow.dtype == np.float32
    assert (flow[:2] == 0).all()
    assert (flow[2] == (2.5, -7.5)).all()


def test_reading_one_png_encoding_as_the_other_goes_wrong(tmp_path: Path, flow: np.ndarray) -> None:
    """The container is the same, so a reader can't notice KITTI's file: the caller has to know."""
    write_flow(tmp_path / "a.png", flow, encoding="kitti")
    got, valid = read_flow(tmp_path / "a.png", "virtual-kitti")
    assert valid.all()
    assert np.abs(got - flow).mean() > 1


def test_a_kitti_png_with_another_validity_is_refused(tmp_path: Path, flow: np.ndarray) -> None:
    """Virtual KITTI's file, and one whose channels were written in OpenCV's order: red when it is read."""
    write_flow(tmp_path / "a.png", flow, encoding="virtual-kitti")
    with pytest.raises(DamagedFile, match=r"a\.png: its third channel holds 65535, KITTI's is 0 .* or 1"):
        read_flow(tmp_path / "a.png", "kitti")
    with pytest.raises(DamagedFile, match="channels in another order"):
        read_flow(png16(tmp_path / "b.png", red=1, green=32768, blue=32896), "kitti")


# --- wrong calls


def test_a_png_without_encoding_is_refused(tmp_path: Path, flow: np.ndarray) -> None:
    path = png16(tmp_path / "a.png", 1, 2, 3)
    with pytest.raises(ValueError, match=r'a png needs encoding="kitti" or "virtual-kitti"'):
        read_flow(path)
    with pytest.raises(ValueError, match="a png needs encoding"):
        write_flow(path, flow)


def test_unknown_suffixes_are_refused(tmp_path: Path, flow: np.ndarray) -> None:
    for call in (
        lambda: read_flow(tmp_path / "a.txt"),
        lambda: write_flow(tmp_path / "a.flo5", flow),
    ):
        with pytest.raises(ValueError, match=r"a\.\w+: .* not '\."):
            call()
    assert list(tmp_path.iterdir()) == []


def test_wrong_shapes_are_refused(tmp_path: Path, flow: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"flow: shape \(2, 7, 11\), expected \(H, W, 2\)"):
        write_flow(tmp_path / "a.flo", flow.transpose(2, 0, 1))
    with pytest.raises(ValueError, match=r"expected \(H, W\) or \(H, W, 3\)"):
        write_pfm(tmp_path / "a.pfm", flow)
    with pytest.raises(ValueError, match="2x2"):
        write_flow(tmp_path / "a.png", flow[:, :1], encoding="virtual-kitti")


@pytest.mark.parametrize(("name", "encoding"), FORMATS)
def test_flow_that_is_not_finite_can_not_be_called_valid(
    tmp_path: Path, flow: np.ndarray, name: str, encoding: Encoding | None
) -> None:
    flow[1, 2, 1] = np.nan
    with pytest.raises(ValueError, match="NaN or Inf in 1 pixels that `valid` calls valid"):
        write_flow(tmp_path / name, flow, np.ones((HEIGHT, WIDTH), bool), encoding)
    assert write_flow(tmp_path / name, flow, encoding=encoding) == HEIGHT * WIDTH - 1


def test_writing_leaves_the_callers_arrays_alone(tmp_path: Path, flow: np.ndarray, valid: np.ndarray) -> None:
    """Red when: out-of-range pixels are struck from the caller's own mask."""
    valid[0, 0] = True
    flow[0, 0] = 600
    before, valid_before = flow.copy(), valid.copy()
    for name, encoding in FORMATS:
        write_flow(tmp_path / name, flow, valid, encoding)
    np.testing.assert_array_equal(flow, before)
    np.testing.assert_array_equal(valid, valid_before)


# --- damaged files, each format in its own way (`test_damaged_files` has what all readers share)


@pytest.mark.parametrize("name", ["flow.flo", "flow.pfm"])
def test_a_file_that_is_too_long_is_damaged(tmp_path: Path, flow: np.ndarray, name: str) -> None:
    write_flow(tmp_path / name, flow)
    with (tmp_path / name).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(DamagedFile, match=rf"says {WIDTH}x{HEIGHT}, which takes \d+ bytes"):
        read_flow(tmp_path / name)


def test_a_negative_or_absurd_size_is_damaged(tmp_path: Path) -> None:
    for width, height in ((-3, -2), (0, 0), (2**30, 2**30)):
        (tmp_path / "a.flo").write_bytes(b"PIEH" + struct.pack("<ii", width, height) + bytes(48))
        with pytest.raises(DamagedFile, match=rf"says {width}x{height}"):
            read_flow(tmp_path / "a.flo")


def test_a_scalar_pfm_is_no_flow(tmp_path: Path) -> None:
    write_pfm(tmp_path / "a.pfm", np.ones((3, 4), np.float32))
    with pytest.raises(DamagedFile, match="one channel"):
        read_flow(tmp_path / "a.pfm")


@pytest.mark.parametrize(("shape", "dtype"), [((5, 8, 3), "u1"), ((5, 8), "u2"), ((5, 8, 4), "u2")])
def test_flow_png_must_be_16_bit_rgb(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    """Red when: an 8-bit png is taken for flow."""
    cv2.imwrite(str(tmp_path / "a.png"), np.ones(shape, dtype))
    with pytest.raises(DamagedFile, match=r"expected flow in 16-bit RGB, got an? (8|16)-bit"):
        read_flow(tmp_path / "a.png", "kitti")


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"u": np.ones((3, 4), np.float16)}, r"it lacks \['v'\]"),
        (
            {"u": np.ones((3, 4)), "v": np.ones((4, 3))},
            r"v is float64\(4, 3\), expected .* \(3 4\)",
        ),
        ({"u": np.ones((3, 4), int), "v": np.ones((3, 4), int)}, "u is int64"),
        ({"u": np.ones((3, 4, 1)), "v": np.ones((3, 4, 1))}, r"u is float64\(3, 4, 1\)"),
        ({"u": np.array([{}]), "v": np.array([{}])}, "u is objects"),
    ],
)
def test_npz_must_hold_u_and_v(tmp_path: Path, arrays: dict[str, np.ndarray], reason: str) -> None:
    np.savez(tmp_path / "a.npz", allow_pickle=True, **arrays)
    with pytest.raises(DamagedFile, match=reason):
        read_flow(tmp_path / "a.npz")


def test_a_bare_npy_is_no_npz(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.ones((3, 4)))
    (tmp_path / "a.npz").write_bytes(buffer.getvalue())
    with pytest.raises(DamagedFile, match="its arrays can't be read: File is not a zip file"):
        read_flow(tmp_path / "a.npz")


def test_an_array_is_flow_in_either_order(tmp_path: Path, rng: np.random.Generator) -> None:
    """Red when: `2 H W` is read as `H W 2`, or what is not finite is valid."""
    flow = rng.normal(0, 600, (5, 7, 2)).astype(np.float32)
    flow[0, 1, 0] = np.nan
    np.save(tmp_path / "a.npy", flow)
    np.save(tmp_path / "b.npy", np.moveaxis(flow, 2, 0).astype(np.float64))
    np.savez(tmp_path / "c.npz", flow=flow)
    for name in ("a.npy", "b.npy", "c.npz"):
        read, valid = read_flow(tmp_path / name)
        np.testing.assert_array_equal(read, np.where(valid[..., None], flow, 0))
        assert np.argwhere(~valid).tolist() == [[0, 1]]
    np.save(tmp_path / "d.npy", flow[..., 0])
    with pytest.raises(DamagedFile, match=r"float32\(5, 7\), expected float of shape"):
        read_flow(tmp_path / "d.npy")

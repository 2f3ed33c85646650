"""Files of the public data sets, against an independent decode of the same bytes (reference_values.json)."""

import csv
import json
from typing import Any

import numpy as np
import pytest

from semraft.data.files.formats import read_flow, read_pfm
from semraft.data.files.pictures import read_image, read_mask
from semraft.data.taxonomy import VIPER_CLASSES
from tests.helpers import REAL_DATA, needs_real_data

pytestmark = needs_real_data


def reference(*kinds: str) -> dict[str, dict[str, Any]]:
    """The reference entries of these kinds by path; read when the tests are collected."""
    path = REAL_DATA / "reference_values.json"
    files = json.loads(path.read_text())["files"] if path.is_file() else {}
    return {name: values for name, values in files.items() if values["kind"] in kinds}


FLOW = reference("flow_png16", "flo")
IMAGES = reference("image")
PFM = reference("pfm")


@pytest.mark.parametrize("name", FLOW)
def test_flow_is_what_the_independent_decode_says(name: str) -> None:
    """Red when: R, G, B are taken in OpenCV's order, 16 bits are cut to 8, 1e9 and more passes as flow."""
    expected = FLOW[name]
    flow, valid = read_flow(REAL_DATA / name, "kitti" if name.endswith(".png") else None)
    assert flow.shape == (expected["h"], expected["w"], 2)
    assert valid.sum() == expected["valid"]
    u, v = flow[valid].astype(np.float64).T
    speed = np.hypot(u, v)
    got = {
        "u_mean": u.mean(),
        "v_mean": v.mean(),
        "mag_mean": speed.mean(),
        "mag_median": np.median(speed),
        "mag_max": speed.max(),
    }
    assert got == pytest.approx({key: expected[key] for key in got}, abs=6e-6)  # Five decimals are given.
    assert (flow[~valid] == 0).all()


@pytest.mark.parametrize("name", IMAGES)
def test_images_are_what_the_independent_decode_says(name: str) -> None:
    image = read_image(REAL_DATA / name)
    assert image.shape == (IMAGES[name]["h"], IMAGES[name]["w"], 3)
    assert image.mean() == pytest.approx(IMAGES[name]["mean"], abs=6e-4)


@pytest.mark.parametrize("name", PFM)
def test_scalar_pfm_is_what_the_independent_decode_says(name: str) -> None:
    values = read_pfm(REAL_DATA / name)
    assert values.shape == (PFM[name]["h"], PFM[name]["w"])
    got = {"mean": values.mean(), "min": values.min(), "max": values.max()}
    assert got == pytest.approx({key: PFM[name][key] for key in got}, abs=6e-5)


@pytest.mark.parametrize("pair", ["01", "10"])
def test_pfm_rows_lie_as_those_of_the_mask_they_belong_to(pair: str) -> None:
    """Red when: the rows of a pfm are left bottom to top; means and sizes would not tell."""
    folder = REAL_DATA / "mmflow_testvectors"
    weights = read_pfm(folder / f"0000000-occ_weights_{pair}.pfm")
    occluded = read_mask(folder / f"0000000-occ_{pair}.png")
    np.testing.assert_array_equal(weights > 0, occluded)


def test_kitti_noc_is_part_of_occ_with_the_same_values() -> None:
    training = REAL_DATA / "kitti2015" / "training"
    flow_noc, noc = read_flow(training / "flow_noc" / "000010_10.png", "kitti")
    flow_occ, occ = read_flow(training / "flow_occ" / "000010_10.png", "kitti")
    assert (noc.sum(), occ.sum()) == (109063, 111664)
    assert not (noc & ~occ).any()
    np.testing.assert_array_equal(flow_noc[noc], flow_occ[noc])
    leaves = occ & ~noc
    y, x = np.nonzero(leaves)
    u, v = flow_occ[leaves].T
    outside = (x + u < 0) | (x + u > 1241) | (y + v < 0) | (y + v > 374)
    assert outside.mean() > 0.95  # Occ adds the pixels whose match lies outside frame 2.


def test_kitti_read_as_virtual_kitti_goes_clearly_wrong() -> None:
    """The trap: the container is the same and nothing fails, but u is 2.42 and v 0.73 times the truth."""
    path = REAL_DATA / "kitti2015" / "training" / "flow_occ" / "000010_10.png"
    right, valid = read_flow(path, "kitti")
    wrong, wrong_valid = read_flow(path, "virtual-kitti")
    np.testing.assert_array_equal(wrong_valid, valid)
    slope = (wrong[valid] * right[valid]).sum(0) / (right[valid] ** 2).sum(0)
    np.testing.assert_allclose(slope, (128 * 1241 / 65535, 128 * 374 / 65535), rtol=0.02)
    assert np.linalg.norm(wrong - right, axis=-1)[valid].mean() > 3


def test_the_official_viper_table_is_ours() -> None:
    with (REAL_DATA / "viper" / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    official = [
        (int(row["id"]), row["classname"], (int(row["red"]), int(row["green"]), int(row["blue"])))
        for row in rows
    ]
    assert official == [entry[:3] for entry in VIPER_CLASSES]
    evaluated = {int(row["id"]) for row in rows if row["class_eval"] == "1"}
    assert all(VIPER_CLASSES[label].common != 255 for label in evaluated)

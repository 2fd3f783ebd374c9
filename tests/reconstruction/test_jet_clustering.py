"""Jets of images against anti-kT by its definition."""

import sys
from dataclasses import fields

import numpy as np
import pytest
from optional_packages import need

from caloedge.detector.images.particle_samples import ParticleSample, read_particles
from caloedge.detector.images.response import ETA_H, FIELD_ON, PHI_W, Particles, images
from caloedge.errors import MissingTool, UserError
from caloedge.reconstruction import jet_clustering
from caloedge.reconstruction.jet_clustering import jets


@pytest.fixture
def fastjet() -> None:
    need("fastjet", "awkward")


@pytest.fixture(scope="module")
def shipped() -> ParticleSample:
    return read_particles("qcd_jets")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastjet", None)
    with pytest.raises(MissingTool) as caught:
        jets(np.zeros((1, 56, 56)))
    assert str(caught.value) == "Jets need the package fastjet; pip install 'caloedge[jets]'"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((56, 56)), "images of shape (56, 56); jets are clustered in (events, 56, 56)"),
        (np.zeros((2, 4, 56)), "images of shape (2, 4, 56); jets are clustered in (events, 56, 56)"),
        (np.full((1, 56, 56), np.nan), "image[0, 0, 0] is not finite; jets need finite energies"),
    ],
)
def test_images_that_cannot_be_are_refused(image: np.ndarray, message: str) -> None:
    with pytest.raises(UserError) as caught:
        jets(image)
    assert str(caught.value) == message


@pytest.mark.usefixtures("fastjet")
def test_lone_pixels_are_jets_at_their_centres() -> None:
    image = np.zeros((3, 56, 56), np.float32)
    image[0, 28, 10], image[0, 40, 50], image[2, 5, 0] = 100, 80, 300
    clustered = jets(image)
    order = [(0, 28, 10, 100), (0, 40, 50, 80), (2, 5, 0, 300)]
    np.testing.assert_array_equal(clustered.event_N, [event for event, *_ in order])
    for at, (_, row, column, energy) in enumerate(order):
        assert clustered.pt_N[at] == pytest.approx(energy / np.cosh(ETA_H[row]), rel=1e-9)  # rounding of doubles
        assert clustered.eta_N[at] == pytest.approx(ETA_H[row], abs=1e-9)
        assert clustered.phi_N[at] == pytest.approx(PHI_W[column], abs=1e-9)


@pytest.mark.usefixtures("fastjet")
def test_near_pixels_are_one_jet_also_across_the_seam() -> None:
    image = np.zeros((3, 56, 56))
    image[0, 28, 0], image[0, 28, 55] = 60, 60  # one pixel of 0.112 rad apart
    image[1, 28, 10], image[1, 28, 13] = 60, 60  # 0.337 rad apart
    image[2, 28, 10], image[2, 28, 14] = 60, 60  # 0.449 rad apart
    clustered = jets(image)
    np.testing.assert_array_equal(clustered.event_N, [0, 1, 2, 2])
    assert abs(abs(clustered.phi_N[0]) - np.pi) < 1e-9  # rounding of doubles
    half = np.pi / 56
    np.testing.assert_allclose(clustered.pt_N[:2] * np.cosh(ETA_H[28]), [120 * np.cos(half), 120 * np.cos(3 * half)], rtol=1e-9)


@pytest.mark.usefixtures("fastjet")
def test_soft_negative_and_absent_energies_make_no_jets() -> None:
    image = np.zeros((4, 56, 56))
    image[0, 28, 10] = 19.9
    image[1] = -5.0
    image[3, 28, 10] = 20.1
    np.testing.assert_array_equal(jets(image).event_N, [3])
    np.testing.assert_array_equal(jets(image, lowest_pt_gev=5).event_N, [0, 3])
    negative = image.copy()
    negative[3, 28, 11] = -10
    np.testing.assert_array_equal(jets(negative).pt_N, jets(image).pt_N)
    for none in (jets(np.zeros((0, 56, 56))), jets(np.zeros((2, 56, 56)))):
        assert none.event_N.shape == none.pt_N.shape == none.eta_N.shape == none.phi_N.shape == (0,)


def plain_anti_kt(image: np.ndarray, lowest_pt_gev: float) -> list[tuple[float, float, float]]:
    """Cluster one image by the definition: join the pair with the least distance, or call the particle a jet."""
    rows, columns = np.nonzero(image > 0)
    momenta = [
        image[r, c] / np.cosh(ETA_H[r]) * np.array([np.cos(PHI_W[c]), np.sin(PHI_W[c]), np.sinh(ETA_H[r]), np.cosh(ETA_H[r])])
        for r, c in zip(rows, columns, strict=True)
    ]
    clustered = []
    while momenta:
        px, py, pz, energy = np.array(momenta).T
        pt2, phi, rapidity = px**2 + py**2, np.arctan2(py, px), np.log((energy + pz) / (energy - pz)) / 2
        delta_phi = np.abs(phi[:, None] - phi)
        apart2 = np.minimum(delta_phi, 2 * np.pi - delta_phi) ** 2 + (rapidity[:, None] - rapidity) ** 2
        distance = np.minimum(1 / pt2[:, None], 1 / pt2) * apart2 / 0.4**2
        np.fill_diagonal(distance, 1 / pt2)
        first, second = sorted(int(i) for i in np.unravel_index(np.argmin(distance), distance.shape))
        last = momenta.pop(second)
        if first == second:
            if np.hypot(last[0], last[1]) >= lowest_pt_gev:
                clustered.append(
                    (np.hypot(last[0], last[1]), np.arcsinh(last[2] / np.hypot(*last[:2])), np.arctan2(last[1], last[0]))
                )
        else:
            momenta[first] = momenta[first] + last
    return sorted(clustered, reverse=True)


@pytest.mark.usefixtures("fastjet")
def test_jets_are_anti_kt_by_its_definition() -> None:
    rng = np.random.default_rng(5)
    image = np.where(rng.random((4, 56, 56)) < 0.04, rng.exponential(12, (4, 56, 56)), 0)
    clustered = jets(image)
    for event in range(4):
        in_event = clustered.event_N == event
        expected = np.array(plain_anti_kt(image[event], 20.0))
        assert len(expected) > 5
        actual = np.stack([clustered.pt_N[in_event], clustered.eta_N[in_event], clustered.phi_N[in_event]], axis=1)
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)  # rounding of sums of doubles


@pytest.mark.usefixtures("fastjet")
def test_blocks_of_events_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    image = np.where(rng.random((7, 56, 56)) < 0.03, rng.exponential(20, (7, 56, 56)), 0)
    image[2] = 0
    whole = jets(image)
    monkeypatch.setattr(jet_clustering, "EVENTS_PER_CALL", 2)
    parts = jets(image)
    for name in ("event_N", "pt_N", "eta_N", "phi_N"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))
    assert set(whole.event_N.tolist()) == {0, 1, 3, 4, 5, 6}


@pytest.mark.usefixtures("fastjet")
def test_the_shipped_events_have_two_hard_jets(shipped: ParticleSample) -> None:
    n = 200
    chosen = shipped.particles.event_N < n
    particles = Particles(*(getattr(shipped.particles, field.name)[chosen] for field in fields(Particles)))
    clustered = jets(images(particles, n, FIELD_ON, np.random.default_rng(7)).truth_EHW)
    per_event = np.bincount(clustered.event_N, minlength=n)
    assert (per_event >= 2).mean() > 0.85  # else one flies out of the detector
    first = np.searchsorted(clustered.event_N, np.flatnonzero(per_event >= 2))
    assert (clustered.pt_N[first] >= clustered.pt_N[first + 1]).all()
    assert 120 < np.median(clustered.pt_N[first]) < 180  # momentum transfers fall steeply from 120 GeV
    opposite = np.abs(np.abs(clustered.phi_N[first] - clustered.phi_N[first + 1]) - np.pi)
    assert np.median(opposite) < 0.4

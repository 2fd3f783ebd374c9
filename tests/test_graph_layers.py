"""Graph layers give what their definition says, by slow loops, in training as in the exported form."""

import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")

from caloedge.arithmetic import FloatArithmetic, QuantisedArithmetic  # noqa: E402
from caloedge.graph_layers import DECAY, REACH, STEP, GravNet, Nearest, Signed, WithinReach, take  # noqa: E402
from caloedge.networks.clustering import LEAST_ENERGY, SIZES, build  # noqa: E402

EVENTS, NODES, K = 12, 9, 3


def nodes(seed: int, *, few_places: bool = False):
    """Return coordinates on the grid of steps, and which nodes are hits: from none to all of an event's."""
    generator = torch.Generator().manual_seed(seed)
    spread = 2 if few_places else 12
    coordinates = torch.randint(-spread, spread + 1, (EVENTS, NODES, 2), generator=generator) * STEP
    valid = (torch.arange(NODES) < torch.arange(EVENTS)[:, None] % (NODES + 1)).float()
    return coordinates, valid


def nearest_by_loops(coordinates, valid):
    """Return distances and indices of the nearest nodes, written out."""
    distances, indices = torch.zeros(EVENTS, NODES, K), torch.zeros(EVENTS, NODES, K, dtype=torch.long)
    for event in range(EVENTS):
        for node in range(NODES):
            keys = []
            for other in range(NODES):
                apart = sum(abs(float(coordinates[event, node, d] - coordinates[event, other, d])) for d in range(2))
                there = other != node and valid[event, other] > 0
                keys.append((min(apart, REACH) if there else REACH, other))
            for place, (distance, other) in enumerate(sorted(keys)[:K]):
                distances[event, node, place], indices[event, node, place] = distance, other
    return distances, indices


@pytest.mark.parametrize("few_places", [False, True])
def test_nearest_nodes_are_those_of_the_definition_in_either_form(few_places: bool) -> None:
    coordinates, valid = nodes(1, few_places=few_places)
    distances, indices = nearest_by_loops(coordinates, valid)
    if few_places:
        assert (distances[..., 1:] == distances[..., :-1]).float().mean() > 0.3, "no ties to break"
    trained, exported = Nearest(K, exact=True)(coordinates, valid), Nearest(K, exact=True)._dense(coordinates, valid)
    assert torch.equal(trained[0], distances)
    assert torch.equal(exported[0], distances)  # torch's own `topk` takes any of equal ones, ONNX's the first
    assert torch.equal(trained[1], indices)


def test_messages_come_from_within_reach_only() -> None:
    coordinates, valid = nodes(2)
    features = torch.randn(EVENTS, NODES, 4, generator=torch.Generator().manual_seed(3))
    layer = GravNet(K, exact=True, weight=WithinReach(), message=Signed(), mean=Signed())
    mean, largest = layer(coordinates, features, valid)
    distances, indices = nearest_by_loops(coordinates, valid)
    for event in range(EVENTS):
        for node in range(NODES):
            messages = [
                [
                    (math.exp(-DECAY * float(distance)) if distance < REACH else 0.0) * float(features[event, int(other), f])
                    for distance, other in zip(distances[event, node], indices[event, node], strict=True)
                ]
                for f in range(4)
            ]
            for f, row in enumerate(messages):
                assert float(mean[event, node, f]) == pytest.approx(sum(row) / 4, abs=1e-6)  # float32; 4 is the power of two of 3
                assert float(largest[event, node, f]) == pytest.approx(max(row), abs=1e-6)
    alone = valid.sum(1) <= 1
    assert alone.any()
    assert not mean[alone & (valid[:, 0] > 0), 0].any(), "a lone hit hears nobody"


def test_gradients_reach_coordinates_and_features() -> None:
    coordinates, valid = nodes(4)
    coordinates, features = coordinates.requires_grad_(), torch.randn(EVENTS, NODES, 4).requires_grad_()
    layer = GravNet(K, exact=False, weight=WithinReach(), message=Signed(), mean=Signed())
    (layer(coordinates, features, valid)[0] ** 2).sum().backward()
    assert coordinates.grad.abs().sum() > 0
    assert features.grad.abs().sum() > 0
    padding = valid == 0
    assert not features.grad[padding].any(), "padding sends no message"


def test_rows_are_taken_alike_in_either_form() -> None:
    values = torch.randn(EVENTS, NODES, 4)
    indices = torch.randint(0, NODES, (EVENTS, NODES, K))
    rows = indices.unsqueeze(3).expand(-1, -1, -1, 4)
    assert torch.equal(take(values, indices), torch.gather(values.unsqueeze(1).expand(-1, NODES, -1, -1), 2, rows))


def hits(n: int, seed: int):
    """Return events of 0 to `n` hits."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n + 1, n, 5, generator=generator)
    inputs[..., 0] = inputs[..., 0].abs() + 0.02
    inputs[torch.arange(n) >= torch.arange(n + 1)[:, None]] = 0
    return inputs


def arithmetics():
    quantised = QuantisedArithmetic(weight_bits=8, activation_bits=8, input_bits=16, input_fraction=12, input_signed=True)
    return FloatArithmetic(), quantised


@pytest.mark.parametrize("number", [0, 1])
def test_padding_changes_no_hit_and_training_may_leave_it_out(number: int) -> None:
    torch.manual_seed(1)
    network = build(arithmetics()[number], SIZES["edge"]).eval()
    inputs = hits(12, seed=5)
    padded = torch.nn.functional.pad(inputs, (0, 0, 0, 8))
    with torch.no_grad():
        short, long = network(inputs), network(padded)
        assert torch.equal(short, long[:, :12])
        network.train()
        in_training = network(padded)
    there = inputs[..., 0] >= LEAST_ENERGY
    assert torch.allclose(in_training[:, :12][there], short[there], atol=1e-5)  # float32, another order of sums
    assert not in_training[:, 12:].any()


def test_the_quantised_network_is_the_same_for_the_order_of_far_events() -> None:
    """Events of one batch do not touch each other."""
    torch.manual_seed(1)
    network = build(arithmetics()[1], SIZES["edge"]).eval()
    inputs = hits(12, seed=6)
    with torch.no_grad():
        assert torch.equal(network(inputs).flip(0), network(inputs.flip(0)))


def test_sizes_are_what_they_are_called() -> None:
    count = {name: sum(p.numel() for p in build(FloatArithmetic(), size).parameters()) for name, size in SIZES.items()}
    assert count["published"] == count["edge"] == 4965
    assert 100_000 <= count["large"] <= 250_000
    assert count["largest"] >= 1_000_000

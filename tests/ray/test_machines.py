"""Ray's own part in where processes go: two machines, of which one has the larger cards, as Ray's cluster for tests has them."""

from __future__ import annotations

import sys

import pytest
from posttrain.ray_run import cards, samplers
from posttrain.ray_run.memory import GB
from posttrain.tests.host.headless_runs import LONGEST, Headless

SIZES = {"small": 12, "large": 80}  # GB


@pytest.fixture(scope="module")
def cluster():
    """-> its address. Cards are Ray's count of them; no machine has any."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1, "resources": {"small": 1}})
    try:
        made.add_node(num_cpus=2, num_gpus=2, resources={"large": 1})
        yield made.address
    finally:
        made.shutdown()


@pytest.fixture
def ray(cluster):
    import ray

    ray.init(address=cluster, log_to_driver=False)
    yield ray
    ray.shutdown()


def look() -> int:
    """What a card of this machine would tell."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    (found,) = (node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    return next(size * 10**9 for name, size in SIZES.items() if name in found)


class Where:
    def node(self) -> str:
        import ray

        return ray.get_runtime_context().get_node_id()


def test_processes_go_to_the_machine_whose_cards_hold_the_model(ray):
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    by_size = {node["NodeID"]: size for node in ray.nodes() for name, size in SIZES.items() if name in node["Resources"]}
    asked = {"CPU": 0.5, "GPU": 1.0}
    found = {each.node: (each.count, each.size) for each in cards.seen(ray, asked, look)}
    assert found == {node: (1 if size == 12 else 2, size * GB) for node, size in by_size.items()}

    where, words = cards.place(ray, 2, asked, None, 23 * GB, look)
    kind = ray.remote(**samplers.options(asked, where))(Where)
    actors = [kind.remote() for _ in range(2)]
    assert {by_size[node] for node in ray.get([each.node.remote() for each in actors])} == {80}
    assert words == "Cards with 24.0 GB or more: 2; processes go there"
    for each in actors:
        ray.kill(each)  # they hold the cards
    where, words = cards.place(ray, 3, asked, None, 23 * GB, look)
    assert where is None and "1 with 12.0 GB" in words and "2 with 80.0 GB" in words


def test_a_card_that_others_hold_whole_is_unknown(ray):
    holding = ray.remote(num_cpus=0, num_gpus=2)(Where).remote()
    ray.get(holding.node.remote())
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    found = cards.seen(ray, {"GPU": 1.0}, look, patience=10.0)
    assert sorted((each.count, each.size) for each in found if each.size) == [(1, 12 * GB)] and len(found) == 2


def test_cards_that_are_not_there_are_refused_before_anything_starts(cluster, tmp_path):
    made = Headless(tmp_path)
    process = made.start("{}", first=("ray",), options=("--address", cluster, "--card", "24", "--memory", "1"), cpu=False)
    assert process.wait(LONGEST) == 2, made.text()[-3000:]
    assert "--card: 1 processes ask for a card of 24.0 GB each" in made.text() and "unknown memory" in made.text()
    process = made.start("{}", first=("ray",), options=("--address", cluster, "--card", "24", "--memory", "1"))
    assert process.wait(LONGEST) == 2 and "--cpu leaves them alone; leave --card out" in made.text()

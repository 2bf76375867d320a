"""Which of several types of GPU a task asks for: by what is free where that can be seen, else by what waits and what there is."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from shoal.clusters import parse_cluster
from shoal.clusters.free import GpuPods, free_gpus
from shoal.executors.kubernetes.choose import Chooser, NodeSeen
from shoal.plan.resources import Resources

NAUTILUS = parse_cluster("extends: nautilus\nnamespace: lab\n", "mine.yaml")
A40, A6000, PLAIN = "nvidia.com/a40", "nvidia.com/rtxa6000", "nvidia.com/gpu"
ASKED = Resources(gpu=2, gpu_type=("a40", "rtxa6000", "a10"))


def node(name, product, resource=PLAIN, count=8, memory="46068"):
    return {
        "metadata": {"name": name, "labels": {"nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": memory}},
        "spec": {},
        "status": {
            "allocatable": {"cpu": "64", "memory": "512Gi", resource: str(count)},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


NODES = [node("one", "NVIDIA-A40", A40), node("two", "NVIDIA-RTX-A6000", A6000), node("three", "NVIDIA-A10", PLAIN, 4)]
SEEN = [NodeSeen.of(one) for one in NODES]


def free(held, *, everywhere=True):
    return free_gpus(NAUTILUS, NODES, [GpuPods(name, used) for name, used in held.items()], [], everywhere=everywhere)


def take(chooser, count, asked=ASKED, *, place=False):
    found = []
    for _ in range(count):
        way = chooser.choose(asked)
        chooser.move(way.resource, asked, None, "waiting")
        if place:
            chooser.move(way.resource, asked, "waiting", "held")
        found.append(way.resource)
    return found


def test_what_others_hold_decides_where_all_pods_can_be_seen():
    chooser = Chooser(NAUTILUS, SEEN, free({"one": {A40: 8}, "two": {A6000: 2}}))
    # None are free of the first, six of the second, four of the third; then the fewest that wait.
    assert take(chooser, 5) == [A6000, A6000, PLAIN, A6000, PLAIN]
    assert take(chooser, 1) == [A40]


def test_what_was_taken_since_the_last_look_is_not_free_any_more_until_the_next():
    chooser = Chooser(NAUTILUS, SEEN, free({"one": {A40: 8}, "three": {PLAIN: 4}}))
    assert take(chooser, 4, place=True) == [A6000] * 4
    assert chooser.held == {A6000: 8}
    chooser.see(free({"one": {A40: 2}, "two": {A6000: 8}, "three": {PLAIN: 4}}))
    assert take(chooser, 3, place=True) == [A40] * 3


def test_a_hole_has_to_be_large_enough_on_one_node():
    nodes = [*NODES, *(node(f"crowded-{n}", "NVIDIA-A40", A40, 1) for n in range(9))]
    seen = free_gpus(NAUTILUS, nodes, [GpuPods("one", {A40: 8}), GpuPods("two", {A6000: 6})], [])
    chooser = Chooser(NAUTILUS, [NodeSeen.of(one) for one in nodes], seen)
    assert take(chooser, 1, Resources(gpu=2, gpu_type=("a40", "rtxa6000"))) == [A6000]


def test_where_others_pods_are_hidden_the_fewest_waiting_and_the_most_nodes_decide():
    for chooser in (Chooser(NAUTILUS, SEEN), Chooser(NAUTILUS, SEEN, free({}, everywhere=False))):
        assert take(chooser, 6) == [A40, A6000, PLAIN] * 2
        assert chooser.waiting == {A40: 2, A6000: 2, PLAIN: 2}


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["waiting", "held", None])), max_size=60))
def test_counts_are_those_of_the_tasks_whatever_they_went_through(moves):
    chooser = Chooser(NAUTILUS, SEEN)
    state: dict[int, str | None] = {}
    asked = {n: Resources(gpu=n % 3, nodes=1 + n % 2) for n in range(6)}
    for task, after in moves:
        chooser.move(A40, asked[task], state.get(task), after)
        state[task] = after
    waiting = Counter({A40: sum(asked[n].nodes for n, what in state.items() if what == "waiting")})
    held = Counter({A40: sum(asked[n].nodes * asked[n].gpu for n, what in state.items() if what == "held")})
    assert +chooser.waiting == +waiting
    assert +chooser.held == +held


def test_a_region_in_which_there_is_no_node_is_named():
    cluster = parse_cluster("extends: nautilus\ndefaults: {regions: [us-cental]}\n", "mine.yaml")
    nodes = [NodeSeen("one", {"topology.kubernetes.io/region": "us-central"}, {"cpu": 8.0, "memory": 2.0**36})]
    said = Chooser(cluster, nodes).impossible(Resources())
    assert said == "no node is in us-cental (topology.kubernetes.io/region): there are us-central."

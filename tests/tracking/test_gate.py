"""Tests the gate, and what it and a person do to the aliases."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quick import first
from versions import NO, YES, aliases, registered

from aemodels.config import SettingsError, UserError
from aemodels.evaluation.estimates import Estimate, mean_of
from aemodels.evaluation.metrics.samples import frechet
from aemodels.settings import Settings
from aemodels.steps import promote as step
from aemodels.tracking.catalog import champion, get
from aemodels.tracking.gate import Judged, RegistryConfig, Review, decide, measured_for, reviewed
from aemodels.tracking.history import history
from aemodels.tracking.registry import conclude, deciding, keep_review, promote, rollback
from aemodels.tracking.store import Store


def gate(
    challenger: Mapping[str, float], champion: Mapping[str, float] | None, primary: str = "mse", **settings: Any
) -> bool:
    old = None if champion is None else Judged(champion)
    decision = decide(Judged(challenger), old, primary, RegistryConfig(**settings))
    assert decision.reason
    return decision.promote


# ---- the rule


def test_the_first_champion_needs_no_rival() -> None:
    assert gate({"mse": 0.5}, None)
    assert not gate({"mse": math.nan}, None)
    assert not gate({"mse": 0.5, "frechet_samples": math.inf}, None)
    assert not gate({"mse": 0.5}, None, limits={"mse": 0.1})
    assert not gate({}, None)


def test_better_means_by_more_than_the_margin() -> None:
    assert gate({"mse": 0.92}, {"mse": 1.0})
    assert not gate({"mse": 0.945}, {"mse": 1.0})
    assert gate({"mse": 0.945}, {"mse": 1.0}, margin=0)
    assert not gate({"mse": 1.0}, {"mse": 1.0}, margin=0)
    assert not gate({"mse": 2.0}, {"mse": 1.0})
    assert gate({"mse": -108.0}, {"mse": -100.0})  # a negative log-likelihood may be negative
    assert not gate({"mse": -100.5}, {"mse": -100.0})


def test_the_direction_is_the_metrics_own() -> None:
    assert gate({"knn_accuracy": 0.97}, {"knn_accuracy": 0.9}, "knn_accuracy")
    assert not gate({"knn_accuracy": 0.85}, {"knn_accuracy": 0.9}, "knn_accuracy")


def test_a_person_may_decline_what_the_gate_allows_and_nothing_else() -> None:
    anna = {"name": "anna", "reason": "the sevens look odd"}
    declined = reviewed(YES, Review(approve=False, **anna))
    assert (declined.promote, declined.numbers) == (False, YES.numbers)
    assert declined.reason == "better; declined by anna: the sevens look odd"
    assert reviewed(YES, Review(approve=True, **anna)).promote
    assert not reviewed(NO, Review(approve=True, **anna)).promote
    with pytest.raises(SettingsError, match="reason"):
        Review.parse({"approve": True, "name": "anna", "reason": ""})


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_never_wins(bad: float) -> None:
    assert not gate({"mse": bad}, {"mse": 1.0})
    assert not gate({"mse": bad}, {"mse": bad})
    assert gate({"mse": 1.0}, {"mse": bad})
    assert gate({"mse": 1.0}, {})  # a champion that cannot be measured on these images


def test_limits_hold_whatever_the_champion_is_like() -> None:
    limits = {"mse": 0.05, "knn_accuracy": 0.9}
    better = {"frechet_samples": 1.0, "mse": 0.04, "knn_accuracy": 0.95}
    worst = {"frechet_samples": 9.0}
    assert gate(better, worst, "frechet_samples", limits=limits)
    assert not gate(better | {"mse": 0.06}, worst, "frechet_samples", limits=limits)
    assert not gate(better | {"knn_accuracy": 0.8}, worst, "frechet_samples", limits=limits)
    assert not gate({"frechet_samples": 1.0}, worst, "frechet_samples", limits=limits)  # not measured


def judged(evaluation_of: Mapping[str, Estimate]) -> Judged:
    return Judged({name: estimate.value for name, estimate in evaluation_of.items()}, evaluation_of)


def drawn(rng: np.random.Generator, factor: float, hardness: np.ndarray, count: int = 300) -> Judged:
    """Judges a model by its errors on images that are hard alike for all models, and by samples of its own."""
    errors = torch.from_numpy(factor * hardness * rng.gamma(50, 1 / 50, len(hardness)))
    features = torch.from_numpy(rng.normal(0, 1 + 0.3 * factor, (count, 8)))
    return judged(
        {"mse": mean_of(errors), "frechet_samples": frechet(torch.from_numpy(rng.normal(size=(count, 8))), features)}
    )


@pytest.mark.parametrize(("factor", "passes"), [(1.0, range(6)), (0.9, range(90, 101))])
def test_equal_models_seldom_pass_and_one_that_is_a_tenth_better_does(factor: float, passes: range) -> None:
    """Each model's own error is a tenth of its number, as some images are a hundred times as hard as others."""
    rng, passed = np.random.default_rng(0), 0
    for _ in range(100):
        hardness = rng.gamma(0.35, 1, 300)
        old, new = drawn(rng, 1.0, hardness), drawn(rng, factor, hardness)
        assert old.estimates["mse"].error > 0.07 * old.metrics["mse"]
        passed += decide(new, old, "mse", RegistryConfig()).promote
    assert passed in passes


GOOD = {"frechet_samples": 4.0, "mse": 0.01, "mean_image_mse": 0.05, "frechet_linear_code": 5.0}
BROKEN = [
    ({"negative_elbo": 9e30}, "negative_elbo is 9e+30: it has diverged"),
    ({"mse": 0.2}, "it reconstructs no better than the mean image (mse 0.2, mean_image_mse 0.05)"),
    ({"mse": 0.0499}, "no better than the mean image"),  # it is dead
    ({"frechet_samples": 6.0}, "images of a linear code are nearer to real ones"),
]


@pytest.mark.parametrize(("broken", "told"), BROKEN)
def test_what_is_broken_is_no_champion(broken: Mapping[str, float], told: str) -> None:
    for old in (None, Judged(GOOD | {"frechet_samples": 100.0, "frechet_linear_code": 200.0})):
        decision = decide(Judged(GOOD | broken), old, "frechet_samples", RegistryConfig())
        assert not decision.promote
        assert told in decision.reason


@pytest.mark.parametrize(("broken", "told"), BROKEN)
def test_a_broken_champion_gives_way(broken: Mapping[str, float], told: str) -> None:
    """A linear code has the size of its model, so that one that beats the champion says nothing of the challenger."""
    bad, linear = Judged(GOOD | broken), "linear" in told
    for challenger, gives_way in ((5.1, True), (9.0, not linear)):
        new = Judged(GOOD | {"frechet_samples": challenger, "frechet_linear_code": 10.0})
        decision = decide(new, bad, "frechet_samples", RegistryConfig())
        assert decision.promote == gives_way
        assert ("the champion is no good: " in decision.reason) == gives_way


def test_a_linear_code_counts_for_who_goes_by_what_it_is_better_in() -> None:
    beaten = GOOD | {"frechet_samples": 5.4}
    assert gate(beaten, None, "frechet_samples")  # within the tolerance
    assert not gate(GOOD | {"frechet_samples": 6.0}, None, "frechet_samples")
    assert gate(GOOD | {"frechet_samples": 6.0, "frechet_reconstructions": 1.0}, None, "frechet_reconstructions")
    linear = {"mse": 0.02, "linear_code_mse": 0.01}
    assert not gate(linear, None)
    assert gate(linear, None, tolerance=1.1)
    assert gate(linear | {"frechet_samples": 1.0}, None, "frechet_samples")


def test_what_could_not_be_measured_is_no_pass() -> None:
    for name in ("mse", "negative_elbo"):
        new = Judged({"frechet_samples": 1.0}, reasons={name: "memory ran out"})
        decision = decide(new, None, "frechet_samples", RegistryConfig())
        assert decision.reason == f"the challenger cannot be judged by {name}, since memory ran out"
    gone = Judged({"frechet_samples": 1.0}, reasons={"frechet_linear_code": "it needs the images of its training"})
    assert decide(gone, None, "frechet_samples", RegistryConfig()).promote


def test_of_an_unknown_error_a_twentieth_is_chance() -> None:
    assert not gate({"class_balance": 0.94}, {"class_balance": 0.9}, "class_balance")
    assert gate({"class_balance": 0.97}, {"class_balance": 0.9}, "class_balance")


def test_a_second_measure_is_not_sacrificed() -> None:
    old = {"frechet_samples": 4.0, "mse": 0.01}
    assert not gate({"frechet_samples": 2.0, "mse": 0.012}, old, "frechet_samples")
    assert gate({"frechet_samples": 2.0, "mse": 0.012}, old, "frechet_samples", tolerance=0.3)
    assert not gate({"frechet_samples": 8.0, "mse": 0.005}, old)
    assert gate({"frechet_samples": 4.3, "mse": 0.005}, old)
    assert gate({"frechet_samples": 2.0}, old, "frechet_samples")  # a gan has no reconstructions
    assert set(measured_for("mse", RegistryConfig(limits={"ssim": 0.5}))) == {
        *("mse", "frechet_samples", "ssim", "mean_image_mse", "linear_code_mse", "negative_elbo")
    }


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"name": "../up"}, "name=../up"),
        ({"name": "a/b"}, "name=a/b"),
        ({"name": "a@b"}, "name=a@b"),
        ({"name": ""}, "name="),
        ({"margin": -1}, "margin=-1"),
        ({"limits": {"msee": 1.0}}, "msee is not a metric that says which model is better; choose one of"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        RegistryConfig.parse(settings)


# ---- promoting


def test_the_gates_decision_moves_the_aliases(store: Store, model_folder: Path) -> None:
    versions = [registered(store, model_folder) for _ in range(3)]
    assert champion(store, "tiny") is None
    conclude(store, versions[0], YES)
    assert aliases(store) == {"champion": 1, "challenger": 3}
    conclude(store, versions[1], NO)
    assert aliases(store) == {"champion": 1, "challenger": 3}
    conclude(store, versions[2], YES)
    assert aliases(store) == {"champion": 3, "previous": 1}
    tags = get(store, "tiny", 3).tags
    assert (tags["gate.decision"], tags["gate.reason"], tags["gate.by"]) == ("promoted", "better", "the gate")
    assert (tags["gate.mse"], tags["gate.replaced"]) == ("0.01", "1")
    assert get(store, "tiny", 2).tags["gate.decision"] == "not promoted"


def test_a_person_may_promote_and_go_back(store: Store, model_folder: Path) -> None:
    for _ in range(3):
        registered(store, model_folder)
    with pytest.raises(UserError, match="tiny: no previous champion"):
        rollback(store, "tiny")
    assert promote(store, "tiny", 1).aliases == ("champion",)
    with pytest.raises(UserError, match="tiny: no previous champion"):
        rollback(store, "tiny")
    promote(store, "tiny", 2)
    assert rollback(store, "tiny").version.version == 1
    assert aliases(store) == {"champion": 1, "previous": 2, "challenger": 3}
    rollback(store, "tiny", reason="  ")
    assert history(store, "tiny")[-1].reason == "rollback from version 1"
    assert aliases(store) == {"champion": 2, "previous": 1, "challenger": 3}
    promote(store, "tiny", 2)  # it is already
    assert aliases(store) == {"champion": 2, "previous": 1, "challenger": 3}
    with pytest.raises(UserError, match=r"tiny/9: not registered; there is tiny/1, tiny/2, tiny/3, tiny@challenger"):
        promote(store, "tiny", 9)


def test_the_line_of_champions_is_kept(store: Store, model_folder: Path) -> None:
    versions = [registered(store, model_folder) for _ in range(3)]
    assert history(store, "tiny") == []
    conclude(store, versions[0], YES)
    conclude(store, versions[1], NO)
    conclude(store, versions[2], YES)
    promote(store, "tiny", 2)
    promote(store, "tiny", 2)  # it is already
    rollback(store, "tiny")
    line = [one for one in history(store, "tiny") if one.decision == "promoted"]
    assert [(reign.version, reign.replaced) for reign in line] == [(1, None), (3, 1), (2, 3), (3, 2)]
    assert [reign.reason for reign in line] == ["better", "better", "asked for", "rollback from version 2"]
    assert [reign.by for reign in line[:2]] == ["the gate", "the gate"]
    assert [reign.numbers for reign in line[1:3]] == [{"mse": 0.01}, {}]
    assert line == sorted(line, key=lambda reign: reign.since)
    with pytest.raises(UserError, match="small: no such registered model"):
        history(store, "small")


def told(store: Store) -> list[tuple[int, str, str, str]]:
    return [(line.version, line.decision, line.by, line.reason) for line in history(store, "tiny")]


def test_every_decision_of_a_person_stays(store: Store, model_folder: Path) -> None:
    first, second = registered(store, model_folder), registered(store, model_folder)
    conclude(store, first, YES)
    for name, run in (("bert", "a"), ("carl", "b"), ("carl", "b")):  # the last is a task that is repeated
        no = Review(approve=False, name=name, reason="blurred", id=run)
        conclude(store, second, reviewed(YES, no), no)
    yes = Review(approve=True, name="anna", reason="sharper", id="c")
    conclude(store, second, reviewed(YES, yes), yes)
    late = Review(approve=True, name="dora", reason="me too", id="d")
    conclude(store, first, reviewed(NO, late), late)
    assert told(store) == [
        (1, "promoted", "the gate", "better"),
        (2, "rejected", "bert", "better; declined by bert: blurred"),
        (2, "rejected", "carl", "better; declined by carl: blurred"),
        (2, "promoted", "the gate and anna", "better; approved by anna: sharper"),
        (1, "without effect", "dora", "worse; approved by dora: me too"),
    ]
    conclude(store, first, NO)
    conclude(store, first, reviewed(NO, nobody := Review(approve=False, name="the gate", reason="unasked")), nobody)
    assert len(told(store)) == 5  # what the gate declines is no person's decision


def test_what_a_person_wants_in_vain_stays_and_a_repeated_task_does_not_double_it(
    store: Store, model_folder: Path
) -> None:
    for _ in range(2):
        registered(store, model_folder)
        promote(store, "tiny", 1, "first", "anna", asked="a")  # the second time a task that is repeated
    promote(store, "tiny", 1, "still good", "bert")
    rollback(store, "tiny", 1, "go back", "carl", asked="b")
    rollback(store, "tiny", 1, "go back", "carl", asked="b")
    assert told(store) == [
        (1, "promoted", "anna", "asked for: first"),
        (1, "without effect", "bert", "asked for: still good; it is the champion already"),
        (1, "without effect", "carl", "rollback: go back; it is the champion already"),
    ]
    for action in (promote, rollback):
        with pytest.raises(UserError, match=r"reason=xx.*1,001 characters; give at most 1,000"):
            action(store, "tiny", 1, "x" * 1001)


def test_a_champion_that_another_machine_chose_meanwhile_is_judged_too(
    store: Store, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, third = (registered(store, model_folder) for _ in range(3))
    promote(store, "tiny", 1, "first", "anna")
    against: list[int] = []

    def judge(*_: object) -> Any:
        old = champion(store, "tiny")
        assert old is not None
        against.append(old.version.version)
        if len(against) == 1:
            promote(store, "tiny", 2, "elsewhere", "bert")
        return step._Weighed(YES, {}, against[-1])

    monkeypatch.setattr(step, "_weigh", judge)
    step._decide(Settings(), None, None, third, store, None)  # type: ignore[arg-type]
    assert against == [1, 2]
    assert aliases(store) == {"champion": 3, "previous": 2}


def test_decisions_at_the_same_time_do_not_overwrite_each_other(store: Store, model_folder: Path) -> None:
    version = registered(store, model_folder)
    conclude(store, version, YES)
    reviews = [Review(approve=False, name=f"person {n}", reason="no", id=str(n)) for n in range(8)]
    threads = [threading.Thread(target=keep_review, args=(store, version, one, "no")) for one in reviews]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {line.by for line in history(store, "tiny")[1:]} == {one.name for one in reviews}


@pytest.mark.parametrize("killed_at", first(1, [1, 2]))
@pytest.mark.parametrize("then", ["again", "rollback"])
def test_a_promotion_may_be_killed_at_any_alias(
    killed_at: int, then: str, store: Store, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        registered(store, model_folder)
    promote(store, "tiny", 1)
    promote(store, "tiny", 2)
    _kill_at(killed_at, store, monkeypatch, lambda: promote(store, "tiny", 3))
    assert champion(store, "tiny").version.version == 2  # the old one, at every moment
    if then == "again":
        promote(store, "tiny", 3)
        assert aliases(store) == {"champion": 3, "previous": 2}
        assert [reign.version for reign in history(store, "tiny")] == [1, 2, 3]  # the killed one does not count
    else:
        rollback(store, "tiny")  # the promotion did not happen: back to the one before
        assert aliases(store) == {"champion": 1, "previous": 2, "challenger": 3}
        assert [reign.version for reign in history(store, "tiny")] == [1, 2, 1]


@pytest.mark.parametrize("killed_at", first(1, [1, 2]))
def test_a_rollback_may_be_killed_at_any_alias(
    killed_at: int, store: Store, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        registered(store, model_folder)
        promote(store, "tiny", number)
    _kill_at(killed_at, store, monkeypatch, lambda: rollback(store, "tiny"))
    assert champion(store, "tiny").version.version == 2
    rollback(store, "tiny")
    assert aliases(store) == {"champion": 1, "previous": 2}


def _kill_at(call: int, store: Store, monkeypatch: pytest.MonkeyPatch, action: Any) -> None:
    calls = 0
    set_alias = store.client.set_registered_model_alias

    def killed(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        set_alias(*args)

    with monkeypatch.context() as patch:
        patch.setattr(store.client, "set_registered_model_alias", killed)
        with pytest.raises(KeyboardInterrupt):
            action()


def test_a_person_waits_until_the_gate_has_decided(store: Store, model_folder: Path) -> None:
    first, second = registered(store, model_folder), registered(store, model_folder)
    promote(store, "tiny", first.version)
    person = threading.Thread(target=lambda: promote(store, "tiny", second.version))
    with deciding(store, "tiny"):
        person.start()
        person.join(0.5)
        assert person.is_alive()
        assert aliases(store)["champion"] == first.version
    person.join()
    assert aliases(store)["champion"] == second.version
    with pytest.raises(UserError, match="no such registered model"), deciding(store, "../../elsewhere"):
        pass

"""Images leave at the first sure exit, really leave the batch, and come back in order."""

from __future__ import annotations

import copy
import math
import pickle
import threading
from dataclasses import replace

import pytest
import torch

import vitrim
from conformance.families import FAMILIES, NO_CLASS_TOKEN, small_images, small_model
from vitrim.core import ops
from vitrim.core.listening import listeners_of
from vitrim.core.tokens import AuxOutput, Tokens
from vitrim.early_exit.calibration import ExitRecord, exit_macs
from vitrim.early_exit.certainty import confidence, entropy
from vitrim.measure.budget.formula import block_macs

EXITS = (1, 2, 3)


WRAPPED = {
    "evit": vitrim.EViT(keep_rate=0.5),
    "tome": vitrim.ToMe(r=3),
    "token_mergence": vitrim.TokenMergence(keep_rate=0.5),
    "beyond_attentive": vitrim.BeyondAttentive(keep_rate=0.5),
    "attention_mass": vitrim.AttentionMass(mass=0.5),  # its images differ in their numbers of tokens
}


CASES = [("vit", name) for name in WRAPPED] + [(each, "evit") for each in FAMILIES if each not in NO_CLASS_TOKEN]


CASES += [("cls_gap", "tome")]


def with_exits(family="vit", method="evit", exits=EXITS):
    """A model whose exits are sure of some images."""
    torch.manual_seed(0)
    model = vitrim.reduce_tokens(small_model(family), vitrim.METR(method=WRAPPED[method], exits=exits))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".exit.3" in name:
                weight.mul_(5)
    return model


def a_threshold(measures_IE):
    """In the widest gap between the middle values, out of rounding's reach."""
    values = measures_IE.flatten().sort().values
    low, high = len(values) // 4, 3 * len(values) // 4
    gap = low + int((values[low + 1 : high] - values[low : high - 1]).argmax())
    return float(values[gap] + values[gap + 1]) / 2


def sure_of(model, images, by="confidence"):
    measure = {"confidence": confidence, "entropy": entropy}[by]
    logits = vitrim.anytime(model, by=by).all_logits(images)
    return logits, torch.stack([measure(each) for each in logits[:-1]], dim=1)


def first_sure(leaves_IE):
    """One by one: the first exit at which each image leaves."""
    return [next((e for e, leaves in enumerate(row) if leaves), len(row)) for row in leaves_IE.tolist()]


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize(("family", "method"), CASES)
@pytest.mark.parametrize("by", ["confidence", "entropy"])
def test_each_image_leaves_at_the_first_sure_exit_with_its_logits(family, method, by):
    model, images = with_exits(family, method), small_images(family, 8)
    logits, measure_IE = sure_of(model, images, by)
    threshold = a_threshold(measure_IE)
    wanted = first_sure(measure_IE >= threshold if by == "confidence" else measure_IE <= threshold)
    found = vitrim.anytime(model, threshold, by).predict(images)
    assert found.exits_B.tolist() == wanted
    expected = torch.stack([logits[exit][i] for i, exit in enumerate(wanted)])
    torch.testing.assert_close(found.logits_BK, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", WRAPPED)
def test_a_prediction_is_the_same_in_a_batch_and_alone(method):
    model, images = with_exits(method=method), small_images("vit", 8)
    wrapped = vitrim.anytime(model, a_threshold(sure_of(model, images)[1]))
    together = wrapped.predict(images)
    alone = [wrapped.predict(image.unsqueeze(0)) for image in images]
    assert len(set(together.exits_B.tolist())) > 1
    assert torch.equal(together.exits_B, torch.cat([each.exits_B for each in alone]))
    torch.testing.assert_close(together.logits_BK, torch.cat([each.logits_BK for each in alone]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("family", "method"), CASES)
def test_never_is_the_plain_model_and_always_the_first_exit_to_the_last_bit(family, method):
    model, images = with_exits(family, method), small_images(family, 3)
    plain, first = model(images), vitrim.anytime(model).all_logits(images)[0]
    assert torch.equal(vitrim.anytime(model, 1.01)(images), plain)
    assert torch.equal(vitrim.anytime(model, -0.01, "entropy")(images), plain)
    assert torch.equal(vitrim.anytime(model, 0.0)(images), first)
    assert torch.equal(vitrim.anytime(model, 1.1, "entropy")(images), first)
    assert torch.equal(model(images), plain)


def test_later_blocks_run_on_the_remaining_images_and_not_at_all_without_any():
    model, images = with_exits(), small_images("vit", 8)
    sizes: list[int] = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    wrapped = vitrim.anytime(model, a_threshold(sure_of(model, images)[1]))
    sizes.clear()
    exits = wrapped.predict(images).exits_B
    stay = [int((exits >= e).sum()) for e in (1, 2, 3)]
    assert stay[0] < 8 and sizes == [size for size in (8, 8, *stay) if size > 0]
    sizes.clear()
    wrapped.thresholds = (0.0, 0.0, 0.0)
    wrapped(images)
    assert sizes == [8, 8]


def test_one_threshold_per_exit():
    wrapped = vitrim.anytime(with_exits(), [math.inf, 0, 0])
    wrapped(small_images("vit", 3))
    assert wrapped.exits == EXITS and wrapped.exits_B.tolist() == [1, 1, 1]


def test_autocast_and_half_precision():
    model, images = with_exits(), small_images("vit", 8)
    with torch.autocast("cpu", torch.bfloat16):
        _, measure_IE = sure_of(model, images)
        threshold = a_threshold(measure_IE)
        assert measure_IE.dtype == torch.float32
        found = vitrim.anytime(model, threshold).predict(images)
    assert found.exits_B[measure_IE[:, 0] >= threshold].eq(0).all() and found.logits_BK.isfinite().all()
    assert vitrim.anytime(model.bfloat16(), 0.5)(images.bfloat16()).dtype == torch.bfloat16


def test_copies_and_pickles_leave_at_the_same_exits():
    model, images = with_exits(), small_images("vit", 8)
    wrapped = vitrim.anytime(model, a_threshold(sure_of(model, images)[1]))
    wanted = wrapped(images)
    for other in (copy.deepcopy(wrapped), pickle.loads(pickle.dumps(wrapped))):
        assert torch.equal(other(images), wanted) and torch.equal(other.exits_B, wrapped.exits_B)


def test_wrappers_leave_nothing_on_the_model():
    model = with_exits()
    for _ in range(3):
        vitrim.anytime(model)(small_images("vit", 1))
    assert not any(part._forward_hooks for part in model.modules())
    assert listeners_of(model.blocks.spec) == ()


def test_threads_do_not_meet():
    model, images = with_exits(), small_images("vit", 4)
    calls = {"plain": model, "first": vitrim.anytime(model, 0.0), "never": vitrim.anytime(model, 2.0)}
    wanted = {name: call(images) for name, call in calls.items()}
    wrong = []

    @torch.inference_mode()
    def work(name):
        wrong.extend(name for _ in range(15) if not torch.equal(calls[name](images), wanted[name]))

    threads = [threading.Thread(target=work, args=(name,)) for name in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_selecting_images_takes_all_that_is_kept_per_image():
    x = torch.arange(6.0).view(3, 2, 1)
    row = torch.arange(3.0).unsqueeze(1)
    tokens = Tokens(x, 1, row, True, row, row, (AuxOutput("metr", row),))
    chosen = ops.select_images(tokens, torch.tensor([2, 0]))
    for value in (chosen.size_BN, chosen.source_BP, chosen.weight_BP, chosen.aux[0].value):
        assert value.tolist() == [[2.0], [0.0]]
    assert torch.equal(chosen.x_BNC, x[[2, 0]])


def test_measures_of_known_logits():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, -torch.inf, -torch.inf, -torch.inf]])
    torch.testing.assert_close(confidence(logits), torch.tensor([0.25, 1.0]))
    torch.testing.assert_close(entropy(logits), torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: vitrim.anytime(small_model("vit")), "reduce.*METR"),
        (lambda: vitrim.anytime(vitrim.reduce_tokens(small_model("vit"), "evit")), "no exit heads"),
        (lambda: vitrim.anytime(with_exits(exits=(4,))), "before its last block"),
        (lambda: vitrim.anytime(with_exits(), by="margin"), "by.*confidence, entropy"),
        (lambda: vitrim.anytime(with_exits(), [0.5, 0.5]), "3 exits.*2"),
        (lambda: vitrim.anytime(with_exits(), math.nan), "threshold"),
        (lambda: vitrim.anytime(with_exits(), "high"), "threshold"),
        (lambda: vitrim.anytime(with_exits()).train()(small_images("vit")), r"\.eval\(\)"),
    ],
)
def test_errors_say_what_to_do(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_model_reduced_anew_and_a_trace_are_refused():
    model, images = with_exits(), small_images("vit")
    wrapped = vitrim.anytime(model)
    with vitrim.trace(model), pytest.raises(ValueError, match="trace"):
        wrapped(images)
    vitrim.reduce_tokens(model, vitrim.METR(method=WRAPPED["evit"], exits=(1, 2)))
    with pytest.raises(ValueError, match=r"exits.*again"):
        wrapped(images)


def test_macs_of_each_exit_are_those_of_the_formula():
    model = with_exits()
    spec, evit = model.blocks.spec, vitrim.EViT(keep_rate=0.5, layers=EXITS)
    patches = 3 * 4 * 4 * spec.channels * spec.num_patches
    head = spec.channels * spec.channels + spec.channels * spec.num_classes
    wanted = []
    for count, layer in enumerate(EXITS, start=1):
        part = vitrim.EViT(keep_rate=0.5, layers=EXITS[:count])
        wanted.append(patches + block_macs(replace(spec, depth=layer + 1), part) + count * head)
    wanted.append(patches + block_macs(spec, evit) + 3 * head + spec.channels * spec.num_classes)
    assert exit_macs(model) == tuple(wanted)


def random_record(by, num_images=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    measure = (torch.rand(num_images, 3, generator=generator) * 16).round() / 16  # with ties
    right = torch.rand(num_images, 4, generator=generator) < torch.tensor([0.5, 0.6, 0.7, 0.8])
    return ExitRecord(by, EXITS, measure, right, (10, 20, 30, 40))


@pytest.mark.parametrize("by", ["confidence", "entropy"])
@pytest.mark.parametrize("seed", range(5))
def test_the_cheapest_threshold_is_the_one_that_trying_all_finds(by, seed):
    record = random_record(by, seed=seed)
    tried = [record.at(k / 32) for k in range(-2, 36)]  # every value, and between
    for max_drop in (0.0, 5.0, 15.0, 100.0):
        found = record.cheapest(max_drop=max_drop)
        good = [score.macs for score in tried if score.top1 >= score.full_top1 - max_drop - 1e-9]
        assert found.macs == pytest.approx(min(good))
        assert found.top1 >= found.full_top1 - max_drop - 1e-9
        assert record.at(found.thresholds[0]) == found


def test_a_score_by_hand():
    measure = torch.tensor([[0.9, 0.1, 0.1], [0.2, 0.2, 0.8], [0.1, 0.1, 0.1]])
    right = torch.tensor([[True, False, False, False], [False, False, True, True], [True, True, True, False]])
    score = ExitRecord("confidence", EXITS, measure, right, (10, 20, 30, 40)).at(0.5)
    assert score.shares == pytest.approx((100 / 3, 0, 100 / 3, 100 / 3))
    assert (score.top1, score.full_top1, score.macs) == pytest.approx((200 / 3, 100 / 3, 80 / 3))


def test_targets_out_of_reach_or_unclear():
    record = random_record("confidence")
    with pytest.raises(ValueError, match=r"no threshold.*99\.00"):
        record.cheapest(min_top1=99.0)
    for targets in ({}, {"max_drop": 1.0, "min_top1": 50.0}):
        with pytest.raises(ValueError, match="one target"):
            record.cheapest(**targets)


def test_calibration_predicts_what_the_model_then_does():
    model, images = with_exits(), small_images("vit", 24)
    labels = model(images).argmax(dim=1)
    labels[::5] = vitrim.anytime(model).all_logits(images)[0].argmax(dim=1)[::5]
    batches = [(images[:10], labels[:10]), (images[10:], labels[10:])]
    score = vitrim.calibrate_anytime(model, batches, max_drop=30.0)
    wrapped = vitrim.anytime(model, score.thresholds)
    found = wrapped.predict(images)
    assert 100 * float((found.logits_BK.argmax(dim=1) == labels).double().mean()) == pytest.approx(score.top1)
    shares = [100 * float((found.exits_B == e).double().mean()) for e in range(4)]
    assert shares == pytest.approx(list(score.shares)) and score.shares[-1] < 100
    with pytest.raises(ValueError, match="no image"):
        vitrim.calibrate_anytime(model, [], max_drop=1.0)


@pytest.mark.parametrize("by", [["confidence"], None, "trust"])
def test_what_is_no_criterion_is_refused(by):
    with pytest.raises(ValueError, match="confidence, entropy"):
        vitrim.anytime(with_exits(), 0.5, by)

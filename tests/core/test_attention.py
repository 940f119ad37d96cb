"""What a method may see of a block's attention equals the full matrix, which is never formed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._inductor.utils import run_and_get_code

from operations import FUSED, Operations
from vitrim.core.attention import ANY_LENGTH, CHUNK_SIZE, Attention, max_chunked_tokens


def some_attention(num_tokens: int, *, bias: bool = False, dtype: torch.dtype = torch.float64) -> Attention:
    torch.manual_seed(0)
    q, k, v = (2 * torch.randn(2, 3, num_tokens, 8, dtype=torch.float64) for _ in range(3))
    sizes = torch.randint(1, 9, (2, 1, 1, num_tokens)).double()
    return Attention(q.to(dtype), k.to(dtype), v.to(dtype), 8**-0.5, sizes.log().to(dtype) if bias else None)


def full_matrix(attention: Attention) -> Tensor:
    """softmax(scale q k^T + bias), [B, H, N, N], in float64."""
    logits = attention.q_BHND.double() @ attention.k_BHND.double().transpose(-2, -1) * attention.scale
    return (logits if attention.bias is None else logits + attention.bias.double()).softmax(dim=-1)


each_bias = pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
each_length = pytest.mark.parametrize("num_tokens", [1, 2, 63, 64, 65, 130, 197])


@each_bias
@each_length
def test_the_class_row_is_the_first_row_of_the_matrix(num_tokens: int, bias: bool) -> None:
    attention = some_attention(num_tokens, bias=bias)
    torch.testing.assert_close(attention.cls_row(), full_matrix(attention)[:, :, 0])


@each_bias
@each_length
def test_received_is_the_mean_of_each_column_of_the_matrix(num_tokens: int, bias: bool) -> None:
    attention = some_attention(num_tokens, bias=bias)
    torch.testing.assert_close(attention.received(), full_matrix(attention).mean(dim=2))


@each_bias
def test_rows_are_those_rows_of_the_matrix(bias: bool) -> None:
    attention = some_attention(37, bias=bias)
    torch.testing.assert_close(attention.rows(5, 30), full_matrix(attention)[:, :, 5:30])


@each_bias
def test_the_output_is_the_matrix_times_the_values(bias: bool) -> None:
    attention = some_attention(37, bias=bias)
    torch.testing.assert_close(attention.output(), full_matrix(attention) @ attention.v_BHND)


@each_bias
@pytest.mark.parametrize("num_tokens", [1, 37, 256, 257, 600])
def test_in_steps_the_output_is_the_same(num_tokens: int, bias: bool) -> None:
    attention = some_attention(num_tokens, bias=bias)
    with torch.no_grad():
        torch.testing.assert_close(attention.output(max_chunked_tokens=ANY_LENGTH), attention.output())


@each_bias
def test_in_steps_nothing_that_the_caller_holds_is_written_over(bias: bool) -> None:
    attention = some_attention(37, bias=bias)
    parts = [
        part for part in (attention.q_BHND, attention.k_BHND, attention.v_BHND, attention.bias) if part is not None
    ]
    before = [part.clone() for part in parts]
    with torch.no_grad():
        attention.output(max_chunked_tokens=ANY_LENGTH)
    assert all(torch.equal(part, kept) for part, kept in zip(parts, before, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_steps_are_faster_in_inference_in_bf16_and_in_short_compiled_fp32(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitrim.core.attention.has_bf16_matmul", lambda: True)
    x = torch.ones(1, 4, 8, dtype=dtype)
    assert max_chunked_tokens(x) == 0, "training goes through the fused kernel"
    with torch.no_grad():
        assert max_chunked_tokens(x) == (ANY_LENGTH if dtype == torch.bfloat16 else 0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert max_chunked_tokens(x) == ANY_LENGTH
        monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)
        expected = {torch.bfloat16: ANY_LENGTH, torch.float16: 0, torch.float32: CHUNK_SIZE}
        assert max_chunked_tokens(x) == expected[dtype]
        monkeypatch.setattr("torch.compiler.is_exporting", lambda: True)
        assert max_chunked_tokens(x) == 0, "what is exported runs elsewhere"
    monkeypatch.setattr("torch.compiler.is_exporting", lambda: False)
    monkeypatch.setattr("vitrim.core.attention.has_bf16_matmul", lambda: False)
    with torch.no_grad():
        assert max_chunked_tokens(x) == (CHUNK_SIZE if dtype == torch.float32 else 0)


@pytest.mark.parametrize("max_chunked_tokens", [0, 36, 37])
def test_the_fused_kernel_runs_beyond_the_length_that_goes_in_steps(max_chunked_tokens: int) -> None:
    with torch.no_grad(), Operations() as operations:
        some_attention(37).output(max_chunked_tokens=max_chunked_tokens)
    assert bool(operations.named(FUSED)) == (max_chunked_tokens < 37)


@each_bias
@pytest.mark.parametrize("num_tokens", [37, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_steps_are_the_same_and_stay_products(dtype: torch.dtype, num_tokens: int, bias: bool) -> None:
    attention = some_attention(num_tokens, bias=bias, dtype=dtype)
    compiled = torch.compile(lambda *parts: Attention(*parts).output(max_chunked_tokens=ANY_LENGTH), fullgraph=True)
    with torch.no_grad():
        mixed, (code,) = run_and_get_code(compiled, *attention[:5])
    assert "bmm(" in code and "scaled_dot_product" not in code
    expected = full_matrix(attention) @ attention.v_BHND.double()
    assert (mixed - expected).norm() / expected.norm() < (1e-6 if dtype == torch.float32 else 0.02)


def test_dropout_is_heeded_in_steps_too() -> None:
    attention = some_attention(37)._replace(dropout=1.0)
    with torch.no_grad():
        assert attention.output(max_chunked_tokens=ANY_LENGTH).eq(0).all()


def test_in_steps_never_more_than_some_rows_of_the_matrix_exist() -> None:
    with torch.no_grad(), Operations() as operations:
        some_attention(600, dtype=torch.bfloat16).output(max_chunked_tokens=ANY_LENGTH)
    assert max(shape[1] for _, shape in operations.made if shape[-1] == 600) == 256


def test_a_bias_of_log_size_is_the_token_repeated() -> None:
    attention = some_attention(7, bias=True)
    assert attention.bias is not None
    sizes_N = attention.bias[0, 0, 0].exp().round().long()
    one = Attention(*(x[:1] for x in attention[:3]), attention.scale, attention.bias[:1])
    repeated = one._replace(
        k_BHND=one.k_BHND.repeat_interleave(sizes_N, dim=2),
        v_BHND=one.v_BHND.repeat_interleave(sizes_N, dim=2),
        bias=None,
    )
    torch.testing.assert_close(one.output(), repeated.output())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_of_half_precision_are_fp32_and_sum_to_one(dtype: torch.dtype) -> None:
    attention = some_attention(65, dtype=dtype)
    for score_BHN in (attention.cls_row(), attention.received()):
        assert score_BHN.dtype == torch.float32
        torch.testing.assert_close(score_BHN.sum(dim=-1), torch.ones(2, 3), atol=1e-5, rtol=0)


def test_scores_of_float64_are_float64() -> None:
    assert some_attention(5).cls_row().dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_of_half_precision_are_computed_in_fp32(dtype: torch.dtype) -> None:
    attention = some_attention(65, dtype=dtype)
    torch.testing.assert_close(attention.cls_row().double(), full_matrix(attention)[:, :, 0], atol=1e-6, rtol=1e-5)


def test_large_queries_and_keys_do_not_overflow_in_fp16() -> None:
    x = torch.full((1, 1, 4, 64), 40.0, dtype=torch.float16)  # 64 * 40 * 40 is beyond 65504
    attention = Attention(x, x, x, 64**-0.5)
    assert attention.output().isfinite().all()
    assert attention.cls_row().isfinite().all()


def test_autocast_does_not_change_the_scores() -> None:
    attention = some_attention(65, dtype=torch.float32)
    wanted = attention.cls_row()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(attention.cls_row(), wanted)


def test_the_mean_key_of_many_heads_is_as_exact_as_fp32() -> None:
    k_BHND = torch.randn(1, 24, 7, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    wanted = k_BHND.double().mean(dim=1)
    torch.testing.assert_close(Attention(k_BHND, k_BHND, k_BHND, 1.0).mean_key().double(), wanted, atol=1e-6, rtol=1e-6)

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixture.errors import MixtureError, UsageError
from trainers.evaluation.search import merge_top_k, top_k


def naive_top_k(query_emb: torch.Tensor, corpus_emb: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sort everything; a stable sort keeps equal scores in the order of their index."""
    scores, indices = (query_emb @ corpus_emb.T).sort(dim=1, descending=True, stable=True)
    return scores[:, :k], indices[:, :k]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    num_queries=st.integers(0, 9),
    num_documents=st.integers(1, 40),
    k=st.integers(1, 45),
    blocks=st.tuples(st.integers(1, 10), st.integers(1, 45)),
)
def test_blocks_of_any_size_give_what_a_full_sort_gives(seed, num_queries, num_documents, k, blocks):
    generator = torch.Generator().manual_seed(seed)
    # Small whole numbers: sums are exact in any order of addition, and most scores are tied.
    queries = torch.randint(-2, 3, (num_queries, 3), generator=generator).float()
    corpus = torch.randint(-2, 3, (num_documents, 3), generator=generator).float()
    scores, indices = top_k(queries, corpus, k, query_block=blocks[0], corpus_block=blocks[1])
    expected_scores, expected_indices = naive_top_k(queries, corpus, k)
    assert torch.equal(scores, expected_scores)
    assert torch.equal(indices, expected_indices)
    assert (scores.dtype, indices.dtype) == (torch.float32, torch.int64)


def test_scores_come_back_to_the_bit():
    generator = torch.Generator().manual_seed(0)
    queries, corpus = torch.randn(20, 32, generator=generator), torch.randn(300, 32, generator=generator)
    scores, indices = top_k(queries, corpus, 100)
    expected_scores, expected_indices = naive_top_k(queries, corpus, 100)
    assert torch.equal(scores, expected_scores)
    assert torch.equal(indices, expected_indices)


def test_the_two_zeros_are_one_score_and_extremes_keep_their_order():
    scores = torch.tensor([[-0.0, 0.0, -0.0, -1e-45, 1e-45, 3e38, -3e38]])
    found = (scores, torch.arange(7).unsqueeze(0))
    merged, indices = merge_top_k(found, (scores[:, :0], found[1][:, :0]), 7)
    assert indices.tolist() == [[5, 4, 0, 1, 2, 3, 6]]
    assert torch.equal(merged, scores.sort(descending=True).values)


def test_equal_scores_give_the_lowest_indices_across_blocks():
    scores, indices = top_k(torch.ones(2, 4), torch.ones(50, 4), 7, corpus_block=3)
    assert indices.tolist() == [list(range(7))] * 2
    assert scores.tolist() == [[4.0] * 7] * 2


def test_merging_parts_of_a_corpus_gives_the_search_of_the_whole():
    generator = torch.Generator().manual_seed(1)
    queries = torch.randint(-2, 3, (5, 3), generator=generator).float()
    corpus = torch.randint(-2, 3, (30, 3), generator=generator).float()
    first, second = top_k(queries, corpus[:11], 8), top_k(queries, corpus[11:], 8)
    merged = merge_top_k(first, (second[0], second[1] + 11), 8)
    whole = top_k(queries, corpus, 8)
    assert torch.equal(merged[0], whole[0])
    assert torch.equal(merged[1], whole[1])


def test_bad_input_is_an_error():
    good = torch.ones(2, 3)
    with pytest.raises(UsageError, match=r"one D, got \(2, 3\) and \(2, 4\)"):
        top_k(good, torch.ones(2, 4), 1)
    with pytest.raises(UsageError, match=r"must be float32, got torch\.float32 and torch\.float16"):
        top_k(good, good.half(), 1)
    with pytest.raises(UsageError, match="1 or more, got 0"):
        top_k(good, good, 0)
    with pytest.raises(MixtureError, match="1 of 2 document embeddings are not finite"):
        top_k(good, torch.tensor([[1.0, 1.0, 1.0], [float("nan"), 1.0, 1.0]]), 1)

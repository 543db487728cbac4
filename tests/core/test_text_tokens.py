"""Markers, expansion, skiplist, lengths, truncation and spans, id by id."""

import string
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import text_checkpoints as tiny
from text_checkpoints import id_of

from colbert_core.errors import InvalidInput, ModelError
from colbert_core.text.checkpoint import read_checkpoint
from colbert_core.text.spans import NO_SPAN
from colbert_core.text.tokens import TextTokenizer

CLS, SEP, MASK, UNK = (id_of(token) for token in ("[CLS]", "[SEP]", "[MASK]", "[UNK]"))
HELLO, WORLD = id_of("hello"), id_of("world")


def tokenizer_of(folder, **lengths):
    return TextTokenizer(read_checkpoint(folder), **lengths)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return tokenizer_of(tiny.plain(tmp_path_factory.mktemp("plain")), doc_maxlen=8, query_maxlen=6)


@pytest.fixture(scope="module")
def stanford(tmp_path_factory):
    return tokenizer_of(tiny.stanford(tmp_path_factory.mktemp("stanford")))


@pytest.fixture(scope="module")
def pylate(tmp_path_factory):
    return tokenizer_of(tiny.pylate(tmp_path_factory.mktemp("pylate")))


def test_plain_keeps_everything_and_expands_nothing(plain):
    (query,) = plain.queries(["Hello, world"])
    comma = id_of(",")
    assert query.ids == [CLS, HELLO, comma, WORLD, SEP]
    assert query.kept == [0, 1, 2, 3, 4]
    assert query.attended == 5
    assert plain.passages(["Hello, world"]) == [query]


def test_stanford_query_is_marked_and_filled_with_masks(stanford):
    (query,) = stanford.queries(["hello world"])
    marked = [CLS, id_of("[unused0]"), HELLO, WORLD, SEP]
    assert query.ids == marked + [MASK] * 7
    assert query.attended == len(marked)
    assert query.kept == list(range(12))


def test_stanford_masks_are_attended_to_when_the_checkpoint_says_so(tmp_path):
    tokenizer = tokenizer_of(tiny.stanford(tmp_path, attend_to_mask_tokens=True))
    (query,) = tokenizer.queries(["hello"])
    assert query.attended == 12


def test_stanford_passage_drops_punctuation_but_reads_it(stanford):
    (passage,) = stanford.passages(["hello, world!"])
    read = [CLS, id_of("[unused1]"), HELLO, id_of(","), WORLD, id_of("!"), SEP]
    assert passage.ids == read
    assert passage.kept == [0, 1, 2, 4, 6]
    assert passage.attended == len(read)


def test_stanford_keeps_punctuation_without_mask_punctuation(tmp_path):
    tokenizer = tokenizer_of(tiny.stanford(tmp_path, mask_punctuation=False))
    (passage,) = tokenizer.passages(["hello, world!"])
    assert passage.kept == list(range(7))


def test_stanford_defaults_where_the_metadata_is_silent(tmp_path):
    folder = tiny.stanford(tmp_path)
    (folder / "artifact.metadata").unlink()
    rules = read_checkpoint(folder).rules
    assert (rules.query_maxlen, rules.doc_maxlen) == (32, 220)
    assert (rules.query_marker, rules.passage_marker) == ("[unused0]", "[unused1]")
    # 220 positions are more than this backbone has.
    assert tokenizer_of(folder).rules.doc_maxlen == tiny.POSITIONS


def test_a_pad_token_spelt_out_is_a_mask_in_queries_and_gone_from_passages(stanford):
    (query,) = stanford.queries(["hello [PAD]"])
    assert query.ids[:5] == [CLS, id_of("[unused0]"), HELLO, MASK, SEP]
    (passage,) = stanford.passages(["hello [PAD]"])
    assert passage.kept == [0, 1, 2, 4]


def test_pylate_prefixes_are_tokens_with_their_space(pylate):
    size = len(tiny.VOCABULARY)
    (query,) = pylate.queries(["hello"])
    assert query.ids == [CLS, size, HELLO, SEP] + [MASK] * 8
    (passage,) = pylate.passages(["hello."])
    assert passage.ids == [CLS, size + 1, HELLO, id_of("."), SEP]
    assert passage.kept == [0, 1, 2, 4]


def test_pylate_without_expansion_and_prefixes(tmp_path):
    folder = tiny.pylate(
        tmp_path,
        do_query_expansion=False,
        attend_to_expansion_tokens=True,
        query_prefix="",
        document_prefix="",
        skiplist_words=["hello", "not in the vocabulary"],
    )
    tokenizer = tokenizer_of(folder)
    (query,) = tokenizer.queries(["hello"])
    assert (query.ids, query.attended, query.kept) == ([CLS, HELLO, SEP], 3, [0, 1, 2])
    # A word that is no token stands for the unknown token, which is then skipped too.
    (passage,) = tokenizer.passages(["hello 世 world"])
    assert UNK in passage.ids
    assert [passage.ids[at] for at in passage.kept] == [CLS, WORLD, SEP]


def test_pylate_settings_may_be_null(tmp_path):
    rules = read_checkpoint(
        tiny.pylate(tmp_path, query_length=None, skiplist_words=None, query_prefix=None)
    ).rules
    assert rules.query_maxlen == 32
    assert rules.query_marker == "[Q] "
    assert rules.skip_symbols == tuple(string.punctuation)


@pytest.mark.parametrize(("words", "cut"), [(5, False), (6, False), (7, True), (30, True)])
def test_truncation_is_reported_exactly(plain, words, cut):
    (passage,) = plain.passages(["hello " * words])
    assert passage.truncated is cut
    assert len(passage.ids) == min(words + 2, 8)
    assert passage.ids[-1] == SEP


def test_the_marker_takes_one_place_of_the_length(stanford):
    fits, cut = stanford.passages(["hello " * 17, "hello " * 18])
    assert (len(fits.ids), fits.truncated) == (20, False)
    assert (len(cut.ids), cut.truncated) == (20, True)
    fits, cut = stanford.queries(["hello " * 9, "hello " * 10])
    assert (fits.truncated, cut.truncated) == (False, True)
    assert MASK not in cut.ids


def test_empty_texts_leave_the_markers(plain, stanford):
    assert plain.passages([""])[0].ids == [CLS, SEP]
    assert stanford.passages([""])[0].ids == [CLS, id_of("[unused1]"), SEP]
    assert plain.passages([]) == plain.queries([]) == []


def test_spans_are_those_of_each_piece(plain):
    text = "  Unaffordable  CAFÉ"
    (passage,) = plain.passages([text], spans=True)
    pieces = [text[start:end] for start, end in passage.spans if (start, end) != NO_SPAN]
    assert pieces == ["Un", "afford", "able", "CAF", "É"]
    assert passage.spans[0] == passage.spans[-1] == NO_SPAN
    assert len(passage.spans) == len(passage.ids)


def test_spans_survive_stripping_lowercasing_and_prompts(tmp_path):
    folder = tiny.pylate(tmp_path, prompts={"ask": " query: "}, default_prompt_name="ask")
    tiny.edit(folder / "tokenizer_config.json", do_lower_case=False)
    (folder / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    tokenizer = tokenizer_of(folder)
    text = "\tİ Hello  WORLD \n"  # lowercased, İ is two characters
    (passage,) = tokenizer.passages([text], spans=True)
    pieces = [text[start:end] for start, end in passage.spans if (start, end) != NO_SPAN]
    assert pieces[-2:] == ["Hello", "WORLD"]
    assert set(pieces) <= {"İ", "Hello", "WORLD"}


def test_expansion_has_no_spans(stanford):
    (query,) = stanford.queries(["hello"], spans=True)
    assert query.spans == [NO_SPAN, NO_SPAN, (0, 5)] + [NO_SPAN] * 9


@pytest.mark.parametrize("length", [0, 3, tiny.POSITIONS + 1])
def test_impossible_lengths_are_refused(tmp_path, length):
    folder = tiny.plain(tmp_path)
    with pytest.raises(InvalidInput, match=rf"doc_maxlen {length} .* 4 … {tiny.POSITIONS}"):
        tokenizer_of(folder, doc_maxlen=length)


def test_a_missing_pylate_marker_is_an_error(tmp_path):
    folder = tiny.pylate(tmp_path, query_prefix="[Query] ")
    with pytest.raises(ModelError, match=r"no token '\[Query\] '"):
        tokenizer_of(folder)


def test_threads_may_share_a_tokenizer(stanford):
    # Queries and passages are cut at different lengths, a setting of the one fast tokenizer.
    text = "hello " * 50
    with ThreadPoolExecutor(8) as pool:
        queries = pool.map(lambda _: stanford.queries([text])[0], range(100))
        passages = pool.map(lambda _: stanford.passages([text])[0], range(100))
        assert {len(query.ids) for query in queries} == {12}
        assert {len(passage.ids) for passage in passages} == {20}


def test_a_short_text_is_one_window_and_a_long_one_overlaps(plain):
    short, long, empty = "hello world", "hello world the token one vector for each query late", ""
    first, windows, nothing = plain.windows([short, long, empty])
    assert first == [(0, len(short))]
    assert nothing == [(0, 0)]
    # 8 ids are [CLS], 6 of text and [SEP]; a quarter of 6 is shared.
    parts = [long[slice(*window)] for window in windows]
    assert parts == ["hello world the token one vector", "vector for each query late"]
    assert not any(tokens.truncated for tokens in plain.passages(parts))


@pytest.mark.parametrize("which", ["plain", "stanford", "pylate"])
def test_windows_cover_every_word_and_fit(which, request):
    tokenizer = request.getfixturevalue(which)
    words = tiny.WORDS.split()
    text = " ".join(words[at * 7 % len(words)] + "," * (at % 3 == 0) for at in range(300))
    (windows,) = tokenizer.windows([text])
    assert len(windows) > 3
    parts = [text[slice(*window)] for window in windows]
    assert not any(tokens.truncated for tokens in tokenizer.passages(parts))
    covered = {at for window in windows for at in range(*window)}
    assert {at for at, one in enumerate(text) if not one.isspace()} <= covered
    assert all(a[1] > b[0] for a, b in pairwise(windows))
    assert windows == sorted(windows)


def test_words_are_one_token_each_and_no_pieces(plain):
    assert plain.words() == [*string.ascii_lowercase, *tiny.WORDS.split()]


def test_words_of_a_vocabulary_that_marks_where_they_begin(tmp_path):
    """As XLM-R's does: `▁able` is a word, `able` what another ends with."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "\u2581afford", "\u2581able", "able", "\u2581", "!"]
    made = Tokenizer(models.Unigram([(piece, -float(at)) for at, piece in enumerate(pieces)], 0))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    folder = tiny.plain(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>").save_pretrained(folder)
    assert tokenizer_of(folder).words() == ["afford", "able"]

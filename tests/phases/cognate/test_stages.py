import pytest
import torch

from agent_forge.data.corpora import Corpus
from agent_forge.data.packing import pack
from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.phases.cognate.stages import make_recipe, stages_of


@pytest.mark.parametrize(("tokens", "windows"), [(0, 0), (16, 1), (64, 1), (128, 2)])
def test_a_micro_batch_below_one_window_is_one_window_and_not_the_whole_batch(
    tokens, windows, make_config, corpus_folder
):
    corpus = Corpus.open(corpus_folder)
    tokenizer = train_tokenizer(corpus.training_texts(20_000), 300)
    shards = {domain: pack(corpus.documents(domain, "train")[:4], tokenizer) for domain in corpus.domains}
    config = make_config(micro_batch_tokens=tokens)  # windows of 64 tokens at the end
    recipe = make_recipe(config, stages_of(config, corpus, seed=0)[0], shards, torch.float32)
    assert recipe.micro_batch == windows

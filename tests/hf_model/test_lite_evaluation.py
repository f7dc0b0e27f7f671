"""Native evaluation and the Hugging Face form answer the synthetic test questions alike."""

import pytest

pytest.importorskip("transformers.models.molmo2")

import torch

from olmo.data.datasets.synthetic.video import SyntheticVideoQA
from olmo.data.examples import prepare
from olmo.data.stream import example_rng
from olmo.eval.evaluate import evaluate_task
from olmo.eval.settings import EvalSettings
from olmo.eval.tasks import Task
from olmo.hf_model.lite_loading import load_model
from olmo.models import loading
from olmo.preprocessing.chat import DataFormatterConfig

NEW = 16
TASK = Task("synthetic", "synthetic_video_qa", "test", "question_answering", NEW)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return SyntheticVideoQA("test", 2, root=tmp_path_factory.mktemp("data"))


@pytest.fixture(
    scope="module",
    params=[
        {"prune_method": "scorer"},
        {"prune_method": "easy", "topk": 0.7, "layout": "packed"},
    ],
    ids=["scorer", "easy"],
)
def models(request, scored_checkpoint, tmp_path_factory):
    """A pruned checkpoint, native and through a Hugging Face folder."""
    changes = {"vision_backbone": {"vit": request.param}}
    native, config = loading.load_model(scored_checkpoint, changes)
    model, processor = load_model(scored_checkpoint, changes)
    folder = tmp_path_factory.mktemp("lite")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return native, config, *load_model(folder)


def prompts(dataset):
    """Video and words of every example of ``dataset``, before they are put into chat form."""
    words = DataFormatterConfig(message_format="none").build()
    for index in range(len(dataset)):
        example = dataset.get(index, example_rng(0, index, 0))
        yield example["video"], words(example, for_inference=True).turns[0]


def test_answers_of_native_evaluation(models, dataset):
    native, config, hf, _ = models
    result = evaluate_task(native, config, TASK, EvalSettings(device_batch_size=4), CPU, dataset)
    expected = {one.index: one.prediction for one in result.predictions}
    lengths = {one.index: one.n_tokens_after for one in result.predictions}
    assert len(expected) == len(dataset) >= 4 and len(set(expected.values())) > 1
    for index, (video, words) in enumerate(prompts(dataset)):
        answer = hf.answer(words, [video], max_new_tokens=NEW)
        assert (answer.text, answer.n_tokens_after) == (expected[index], lengths[index])
        assert answer.n_tokens_after < answer.n_tokens_before


def test_tokens_of_a_batch(models, dataset):
    native, config, hf, processor = models
    preprocessor = config.build_preprocessor(config.build_tokenizer())
    examples = []
    for i in range(len(dataset)):
        rng = example_rng(0, i, 0)
        examples.append(prepare(dataset.get(i, rng), preprocessor))
    batch = config.build_collator()(examples)
    stop = processor.tokenizer.eos_token_id
    expected = native.generate(batch, NEW, [stop]).token_ids.tolist()

    videos, texts = zip(*prompts(dataset), strict=True)
    given = processor(text=list(texts), videos=list(videos))
    assert given["input_ids"].shape == batch["input_ids"].shape
    out = hf.generate(**given, max_new_tokens=NEW)
    new = out[:, given["input_ids"].shape[1] :].tolist()
    assert [cut(row, stop) for row in new] == [cut(row, stop) for row in expected]


def cut(ids, stop):
    return ids[: ids.index(stop)] if stop in ids else ids

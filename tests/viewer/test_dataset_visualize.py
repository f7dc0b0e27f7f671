"""``scripts/dataset_visualize.py``: the page shows what the model sees and is trained to say."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

pytest.importorskip("pyarrow")

import pyarrow as pa
import pyarrow.parquet as pq

from olmo.data.mixture import MIXTURES
from tests.data.broken_media import write_video
from tests.eval.scripts import script_module


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return script_module("dataset_visualize")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    write_video(tmp_path / "a.mp4", list(range(30)))
    (tmp_path / "b.mp4").write_bytes(b"nothing")
    Image.new("RGB", (50, 40)).save(tmp_path / "c.png")
    lines = [
        {"video": "a.mp4", "question": "Is <b> & co in it?", "answer": "Certainly <not>."},
        {"video": "b.mp4", "question": "And here?", "answer": "No."},
        {"image": "c.png", "question": "Which?", "options": ["cat", "dog"], "answer": "dog"},
    ]
    file = tmp_path / "own.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


class Tags(HTMLParser):
    """Checks that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page(script: ModuleType, own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "page.html"
    args = [str(own), str(out), "--n", "3", "--no_shuffle", "--topk", "0.5"]
    assert script.main(args) == 0
    text = out.read_text()
    tags = Tags()
    tags.feed(text)
    assert not tags.open
    assert len(re.findall("<article>", text)) == 3
    assert "height" not in re.findall(r"\.frames \{[^}]*\}", text)[0]  # no frame is out of sight
    assert not re.search(r"(src|href)=.(http|/|\.)", text)  # nothing from elsewhere
    video, broken, image = text.split("<article>")[1:]
    assert "left out: cannot read video" in broken and "b.mp4" in broken
    frames = video.count("data:image/jpeg;base64,")
    assert frames == 7  # 0, 0.5, ... 3 s
    assert video.count("64 × &lt;im_patch&gt;") == frames
    before, after = (
        int(re.search(rf"tokens {when} pruning</dt><dd>(\d+)", video)[1])  # type: ignore[index]
        for when in ("before", "after")
    )
    assert before - after == 64 * frames // 2
    loss = re.findall(r"class='loss' style='[^']+' title='loss weight [\d.]+'>([^<]*)<", video)
    assert len(loss) == 2 and all("Certainly &lt;not&gt;." in t for t in loss)  # row and targets
    assert "Is &lt;b&gt; &amp; co in it?" in video and "<b>" not in video
    assert "<dt>kind</dt><dd>image</dd>" in image


def test_evaluation_trains_nothing(script: ModuleType, own: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert script.main([str(own), str(out), "--n", "1", "--no_shuffle", "--evaluation"]) == 0
    card = out.read_text().split("<article>")[1]
    assert "class='loss'" not in card and "Certainly" not in card.split("The row:")[1]


def test_a_bad_line_costs_that_line(script: ModuleType, own: Path, tmp_path: Path) -> None:
    own.write_text(
        '{"video": "a.mp4", "question": "Open?"}\n{"question": "<q>"}\n'
        '{"video": "a.mp4", "question": "Closed?", "answer": 3}'
    )
    for flags, words, bad in (([], "in training", [0, 1]), (["--evaluation"], "in an", [1])):
        out = tmp_path / "page.html"
        assert script.main([str(own), str(out), "--n", "3", "--no_shuffle", *flags]) == 0
        head, *cards = out.read_text().split("<article>")
        assert f"own.jsonl, {words}" in head
        assert [i for i, card in enumerate(cards) if "left out:" in card] == bad
        assert "own.jsonl: line 2: " in cards[1]


@pytest.mark.slow  # it renders the clips
def test_the_headline_names_the_split(script: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert script.main(["synthetic_video_qa", str(out), "--n", "1", "--evaluation"]) == 0
    assert "<h1>synthetic_video_qa, train, in an evaluation, as " in out.read_text()


def test_mistakes_of_the_user(
    script: ModuleType, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "page.html")
    for args, message in [
        (["tgiff", out], "did you mean 'tgif'?"),
        ([str(tmp_path / "no.jsonl"), out], "no.jsonl: no such file"),
        (["synthetic_video_qa", out, "--model.no_key=1"], "unknown key 'model.no_key'"),
        (["synthetic_video_qa", out, "--topk", "2"], "topk"),
        (
            ["synthetic_video_qa", out, "--config", str(MIXTURES.parent / "tiny_stts.yaml")],
            "tiny_stts.yaml: no 'model.llm.d_model': these are settings to lay over a checkpoint",
        ),
        ([str(own), out, "--split=val"], "own.jsonl has no split 'val'"),
    ]:
        assert script.main(args) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "form",
    [
        *("my.jsonl", "folder"),
        *(pytest.param(form, marks=pytest.mark.slow) for form in ("my.json", "my.parquet")),
    ],
)
def test_conversations(script: ModuleType, own: Path, tmp_path: Path, form: str) -> None:
    said = ["<image>\nWhat <b>?", "First.", "And in <image>?", "Second <i>."]
    turns = [{"from": "gpt" if i % 2 else "human", "value": v} for i, v in enumerate(said)]
    line = {"images": ["c.png", "c.png"], "conversations": turns}
    path = tmp_path / form
    if form == "folder":
        path.mkdir()
        (path / "c.png").write_bytes((tmp_path / "c.png").read_bytes())
        (path / "some.jsonl").write_text(json.dumps(line))
    elif form == "my.parquet":
        pq.write_table(pa.Table.from_pylist([line]), path)
    else:
        path.write_text(json.dumps([line] if form == "my.json" else line))
    out = tmp_path / "page.html"
    assert script.main([str(path), str(out), "--n", "1"]) == 0
    (card,) = out.read_text().split("<article>")[1:]
    row, targets = (part.split("</div>")[0] for part in card.split("<div class='row'>")[1:])
    plain = html.unescape(re.sub("<[^>]*>", "", row))
    order = ["Image 1", "What <b>?", "First.", "And in ", "Image 2", "Second <i>."]
    places = [plain.index(text) for text in order]
    assert places == sorted(places)
    for text in ("First.", "Second &lt;i&gt;."):
        for shown in (row, targets):
            assert re.search(rf"class='loss' style='[^']+' title='[^']+'>{text}", shown), text
    assert targets.count("title='loss weight ") == 2
    assert not re.search("class='loss'[^>]*>[^<]*(What|And in)", row)

"""Questions on whole videos: multiple choice (MC) and short answers (SA). First the rules for the
rows of plain files, then sets of several files, or with lookups."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from olmo.data.datasets.disk import Disk, Row
from olmo.data.datasets.draws import ONE_ANSWER
from olmo.data.datasets.messages import (
    MC,
    MC_SUBTITLE,
    SA,
    among,
    as_text,
    choice,
    short,
    subtitle_lines,
)
from olmo.data.datasets.web_videos import web_video
from olmo.data.records import Flaw, LeftOut, Record


def choice_and_short(row: Row) -> list[Record]:
    """IntentQA: question, a0 to a4, answer (a number). SA, then MC."""
    options = [row[f"a{i}"] for i in range(5)]
    message = choice(row["question"], options, row["answer"])
    return [short(row["question"], options[message["answer_idx"]]), message]


NEWS_CORRUPT = {"389x18", "76x16", "254x17", "254x21", "389x15", "254x20", "389x17"}


def news_video_qa(row: Row, filtered: bool) -> Record:
    """NewsVideoQA: uni_clipped_id, question, answer; ``filtered`` leaves out empty answers. Some of
    the files lead a seek astray, so the loader is told to decode from the start."""
    LeftOut.when(row["uni_clipped_id"] in NEWS_CORRUPT, "the video is known to be corrupt")
    LeftOut.when(filtered and not row["answer"].strip(), "the answer is empty")
    return short(row["question"], row["answer"]) | {"metadata": {"decode_method": "av_noseek"}}


def road_text_vqa(row: Row) -> Record:
    """RoadTextVQA: question, video, answer (a list; of several one is drawn)."""
    answers = row["answer"]
    Flaw.when(not (isinstance(answers, list) and answers), "expected a list of answers")
    message = short(row["question"], answers[0])
    if len(answers) == 1:
        return message
    return message | {"answer": [as_text(a) for a in answers], "draw": [ONE_ANSWER]}


def clevrer(row: Row) -> Record:
    """CLEVRER: video_filename; of each question its answer, or choices (choice, answer: "correct"
    or "wrong"), one of which is correct."""
    file = row["video_filename"]
    thousand = int(file.removeprefix("video_").partition(".")[0]) // 1000 * 1000
    video = {"video": f"CLEVRER/video_{thousand:05d}-{thousand + 1000:05d}/{file}"}
    if "choices" not in row:
        return video | short(row["question"], row["answer"])
    right = [i for i, c in enumerate(row["choices"]) if c.get("answer") == "correct"]
    LeftOut.when(len(right) != 1, "not one choice alone is correct")
    return video | choice(row["question"], [c["choice"] for c in row["choices"]], right[0])


def cinepile(row: Row, with_subtitle: bool) -> Record:
    """CinePile: video_id, movie_name, subtitles (a text); of each question its question, choices,
    answer_key_position."""
    text = (row["subtitles"] or "").replace("<subtitle> ", "").strip() if with_subtitle else ""
    style = MC_SUBTITLE if text else MC
    message = choice(row["question"], row["choices"], row["answer_key_position"], style)
    ids = {"video_id": row["video_id"], "movie_name": row["movie_name"]}
    return message | {"metadata": ids} | ({"subtitle": text} if text else {})


def among_negatives(row: Row) -> Record:
    """Question, Answer, NegativeAnswers: MC, with the answer at a drawn place."""
    return among(row["NegativeAnswers"], row["Question"], row["Answer"])


def tgif(row: Row) -> Iterator[Record]:
    """TGIF: gif_name, question, answer; those of actions and transitions have options, a1 to a5.
    MC, where there are options, and SA."""
    answer = row["answer"]
    if "a1" in row:
        options = [row[f"a{i}"] for i in range(1, 6)]
        yield choice(row["question"], options, answer)
        answer = options[int(answer)]
    yield short(row["question"], answer)


def sutd_trafficqa(disk: Disk, split: str) -> Iterator[Record]:
    """``SUTD-TrafficQA/R2_{split}.jsonl``: a list per line, the first one names the columns
    (vid_filename, q_body, option0 to option3, answer). Empty options are not shown."""
    lines = disk.jsonl(f"SUTD-TrafficQA/R2_{split}.jsonl")
    header: list[str] = next(lines, [])

    def message(line: list[Any]) -> Record:
        row = dict(zip(header, line, strict=True))
        texts = [row[f"option{i}"] for i in range(4)]
        shown = [text for text in texts if text]
        right = choice(row["q_body"], texts, row["answer"])["answer_idx"]
        Flaw.when(not texts[right], "the answer is an empty option")
        video = f"SUTD-TrafficQA/compressed_videos/{row['vid_filename']}"
        return {"video": video} | choice(row["q_body"], shown, shown.index(texts[right]))

    return disk.each(lines, message)


FUNQA_KINDS = {"H": "humor", "C": "creative", "M": "magic"}
FUNQA_OTHER_TASKS = ("H1", "C1", "M1", "C4", "C5")
"""Tasks that ask for time stamps, titles or scores."""


def funqa(disk: Disk, split: str) -> Iterator[Record]:
    """``FunQA/FunQA_{split}.json``: task, visual_input, instruction, output; and for all splits
    ``FunQA/Funqa_mcqa_v1.json``: visual_input, instruction, gt (from 1). The last two lines of that
    instruction are ``The Question is: ...`` and ``The Options are: ['Options 1: ...', ...]``."""

    def video(row: Row, kind: str) -> Record:
        LeftOut.when(kind not in FUNQA_KINDS, "neither of humor, nor creative, nor magic")
        path = f"FunQA/{split}/{split}_{FUNQA_KINDS[kind]}/{row['visual_input']}"
        LeftOut.when(not disk.exists(path), "its video is not there, or in another split")
        return {"video": path}

    def answered(row: Row) -> Record:
        LeftOut.when(row["task"] in FUNQA_OTHER_TASKS, "another task")
        return video(row, row["task"][:1]) | short(row["instruction"], row["output"])

    def with_options(row: Row) -> Record:
        shown = video(row, row["visual_input"][:1])
        *_, question, options = row["instruction"].rstrip().split("\n")
        listed = ast.literal_eval(options.partition("The Options are:")[2].strip())
        texts = [t.replace(f"Options {i}: ", "").strip() for i, t in enumerate(listed, 1)]
        numbers = [str(i) for i, _ in enumerate(texts, 1)]
        LeftOut.when(str(row["gt"]) not in numbers, "the answer is not among the options")
        question = question.replace("The Question is:", "").strip()
        return shown | choice(question, texts, numbers.index(str(row["gt"])))

    yield from disk.each(disk.rows(f"FunQA/FunQA_{split}.json"), answered)
    yield from disk.each(disk.rows("FunQA/Funqa_mcqa_v1.json"), with_options)


def llava(disk: Disk, split: str, kind: str, folders: list[str]) -> Iterator[Record]:
    """``LLaVA-Video-178K/{folder}/*{mc,oe}*.json``, the first that fits: id, data_source, video,
    conversations (value, of user and assistant in turn). A question has its options already."""
    style, named = {"mc": (MC, "multi_choice"), "oe": (SA, "open_ended")}[kind]
    for folder in folders:
        pattern = f"{folder}/*{kind}*.json"

        def messages(row: Row, pattern: str = pattern) -> Iterator[Record]:
            path = f"{row['data_source']}/{row['video']}"
            example_id = f"{row['id']}_{row['data_source']}_{row['video']}_{named}"
            metadata = {"example_id": example_id, "prefix": pattern}
            turns = [turn["value"] for turn in row["conversations"]]
            for question, answer in zip(turns[::2], turns[1::2], strict=True):
                message = short(question.removeprefix("<image>\n"), answer.strip(), style)
                yield {"video": f"LLaVA-Video-178K/{path}", "metadata": metadata} | message

        found = disk.glob(f"LLaVA-Video-178K/{pattern}")
        if not found:
            raise FileNotFoundError(f"LLaVA-Video-178K/{pattern}")
        yield from disk.each(disk.rows(found[0]), messages)


def web_questions(disk: Disk, split: str, folder: str, with_subtitle: bool) -> Iterator[Record]:
    """The table ``{folder}``: video_id, Question, Answer, NegativeAnswers, and with_subtitle
    subtitle (start, end, text), of which the one in the first row of a video holds."""
    seen = set()

    def message(row: Row) -> Record:
        name = row["video_id"]
        shown: Record = {"video": web_video(disk, row)}
        shown["metadata"] = {"example_id": f"molmo2_syn_qa_{name}"}
        if with_subtitle and name not in seen and (lines := subtitle_lines(row["subtitle"])):
            shown["subtitle"] = lines
        seen.add(name)
        return shown | among_negatives(row)

    return disk.each(disk.table_rows(folder, split), message)

"""Columns that hold images and the like at any depth are known as such, since decoding opens what they name."""

from datasets import Audio, Features, Image, List, Value, Video

from scratch_gpt.data.readers.formats import media_columns


def test_media_is_found_at_any_depth():
    text, kinds = Value("string"), (Image(), Audio(), Video())
    plain = {"text": text, "list": List(text), "old list": [text], "fields": {"a": text, "b": [{"c": text}]}}
    media = {f"{type(kind).__name__} {i}": kind for i, kind in enumerate(kinds)}
    media |= {"list of": List(Image()), "old list of": [Image()], "field of": {"a": text, "b": Image()}}
    media |= {"deep": {"a": [{"b": text, "c": List({"d": Audio()})}]}, "one of two": [text, Image()]}
    assert media_columns({**plain, **media}) == set(media)
    assert media_columns(Features(plain)) == set()
    assert media_columns(None) == set()

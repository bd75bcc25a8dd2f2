"""The sentences that the demo encodes: four subjects, three sentences each, or a file of the user's."""

from __future__ import annotations

from pathlib import Path

from .model_files import DemoError

SENTENCES = (
    "The last train to the coast was cancelled.",
    "No more trains are running to the seaside tonight.",
    "Our ferry was delayed for two hours because of the fog.",
    "Simmer the lentils with garlic and cumin until they are soft.",
    "Cook the lentils slowly with spices until tender.",
    "Knead the dough and let it rise overnight.",
    "The telescope recorded light from a galaxy ten billion years old.",
    "Astronomers have photographed a very distant galaxy.",
    "A faint comet will be visible just before sunrise.",
    "The goalkeeper saved two penalties in the final.",
    "The home team won the cup after a penalty shoot-out.",
    "Heavy rain turned the marathon into a test of patience.",
)


def read_sentences(path: str | None) -> list[str]:
    """Return a UTF-8 text file's sentences, one a line, blank lines skipped; ours when `path` is None."""
    if path is None:
        return list(SENTENCES)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DemoError(
            f"--sentences {path}: {error}. It takes a UTF-8 text file, one sentence a line."
        ) from error
    sentences = [line.strip() for line in text.splitlines() if line.strip()]
    if len(sentences) < 2:
        raise DemoError(
            f"--sentences {path} holds {len(sentences)} sentence(s); to compare takes at least 2, one a line."
        )
    return sentences

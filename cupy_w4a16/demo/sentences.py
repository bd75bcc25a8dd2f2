"""The sentences that the demo encodes, or a file of the user's, and those that it calibrates with."""

from __future__ import annotations

from pathlib import Path

from .model_files import DemoError

# Four subjects, three sentences each.
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

# For activations alone, of many subjects: accuracy is measured on other sentences.
CALIBRATION = (
    "The committee postponed its decision until the new figures were published.",
    "She tuned the old piano by ear before the concert began.",
    "Interest rates rose again, and house prices fell for the third month in a row.",
    "The surgeon explained the risks of the operation to the patient's family.",
    "A pair of herons has nested by the canal since early spring.",
    "Install the update, restart the computer and check that the printer is found.",
    "The treaty was signed in 1648 and ended thirty years of war.",
    "My grandmother grew tomatoes and beans behind the garage.",
    "The engine stalled on the hill because the fuel filter was blocked.",
    "Children under twelve travel free when accompanied by an adult.",
    "The painting was sold at auction for twice the expected price.",
    "Mix the plaster with cold water and let it stand for five minutes.",
    "Enzymes speed up chemical reactions without being consumed by them.",
    "He forgot his password and locked himself out of the account.",
    "The orchestra will perform two symphonies and a violin concerto.",
    "Floods closed the main road between the two villages for a week.",
    "Please send the signed contract back to us by Friday.",
    "The company reported a small profit despite lower sales abroad.",
    "Bees find their way home by the position of the sun.",
    "What is the capital of Mongolia, and how many people live there?",
    "The jury found the defendant not guilty on all counts.",
    "Our hotel room overlooked a noisy square full of cafes.",
    "Vaccines train the immune system to recognise a virus.",
    "The bridge was painted green to match the surrounding forest.",
)


def read_sentences(path: str | None) -> list[str]:
    """Return a UTF-8 text file's sentences, one a line, blank lines skipped; ours when `path` is None."""
    if path is None:
        return list(SENTENCES)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DemoError(
            f"no sentences can be read from {path}: {error}; pass a UTF-8 text file, one sentence a line"
        ) from error
    sentences = [line.strip() for line in text.splitlines() if line.strip()]
    if len(sentences) < 2:
        raise DemoError(f"{path} holds {len(sentences)} sentence(s): to compare takes at least 2, one a line")
    return sentences

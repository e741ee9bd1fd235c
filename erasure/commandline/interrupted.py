"""What Ctrl-C leaves behind, by command: what the same command does when it is run again."""

GO_ON = "run the same command again to go on"
NOTHING = "nothing was written; run the same command again to begin again"
AFTER = {
    # what they reached lies in a run's folder
    "erase": GO_ON,
    "forget": GO_ON,
    "attack": GO_ON,
    "evaluate": GO_ON,
    "train": GO_ON,
    "quickstart": GO_ON,
    "sweep": GO_ON,
    # they write at their end, whole or not at all
    "undo": NOTHING,
    "export": NOTHING,
    "demo": NOTHING,
    "report": "some of its files may be those of before; run the same command again to write all",
    "push": "nothing was uploaded, though the repository may be there now; run the same command "
    "again",
}


def after_interrupt(words: list[str]) -> str:
    """The truth about the interrupted command line, as the end of a sentence."""
    if any(word.replace("_", "-") == "--dry-run" for word in words):
        return NOTHING
    command = next((word for word in words if word in AFTER), "")
    return AFTER.get(command, "run the same command again")

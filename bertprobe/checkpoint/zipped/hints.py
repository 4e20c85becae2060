"""What to do about a zip that cannot be read: the ends of messages."""

DAMAGED = "the file is damaged or was cut short: fetch it again"
READERS_DISAGREE = "readers disagree on which one counts: ask for a file that torch.save wrote, or numpy, or Keras"

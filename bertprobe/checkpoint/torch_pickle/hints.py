"""What to do about a file that cannot be read: the ends of this folder's messages."""

DAMAGED = "the file is damaged or was cut short: fetch it again"
RESAVE = "load and save it again with torch.save"
READERS_DISAGREE = "readers disagree on which one counts: ask for a file that torch.save wrote"

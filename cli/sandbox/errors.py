"""The one error of the test fleet: something of the machine or of a host is not as it has to be."""


class SandboxError(Exception):
    """A sandbox could not be made, used or taken down; the text says what is missing and what to do."""

"""Ask libvirt whether it takes XML for the domain of a save image; run as a user with a session daemon.

Lines of JSON come in: {"path": image to write, "head": hexadecimal bytes of it}, then {"xml": new XML} as
often as wanted; the image is written anew for each. One line goes out for each: [error number or 0, message].
"""

import json
import sys
from pathlib import Path

import libvirt


def main() -> None:
    """Answer every line."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    connection = libvirt.open("qemu:///session")
    path, head = Path(), b""
    for line in sys.stdin:
        order = json.loads(line)
        if "head" in order:
            path, head = Path(order["path"]), bytes.fromhex(order["head"])
            continue
        path.write_bytes(head)
        try:
            connection.saveImageDefineXML(str(path), order["xml"], 0)
            answer = [0, ""]
        except libvirt.libvirtError as error:
            answer = [error.get_error_code(), error.get_error_message()]
        sys.stdout.write(json.dumps(answer) + "\n")


main()

"""``python -m mnp_plugin.report.stamp results/SUITE``: a checksum for records of older versions, which wrote none."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mnp_plugin.core.errors import UserError
from mnp_plugin.io.atomic import write_atomic
from mnp_plugin.report.beside import DETAILS
from mnp_plugin.report.texts import CHECKSUM, sealed


def stamp(folder: Path) -> int:
    """Put the results in ``folder`` (``results/<suite>``) that have no checksum under one, as they are.

    What has one stays as it is, right or wrong: stamping mends no damage.

    Returns:
        How many files were rewritten.

    Raises:
        UserError: no results there, or a file that is not JSON.
    """
    kinds = ("records", "floors", "trials", "verdicts", "samples", DETAILS)
    files = [*folder.glob("suite.json"), *(file for kind in kinds for file in sorted((folder / kind).glob("*.json")))]
    files = [file for file in files if file.is_file()]
    if not files:
        raise UserError(f"no results in {folder}; give the folder of a suite, as results/digits")
    stamped = 0
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file}: its JSON is broken ({error}); delete it and run again") from None
        if isinstance(content, dict) and CHECKSUM not in content:
            text = json.dumps(sealed(content), indent=1, sort_keys=file.name != "suite.json", allow_nan=False)
            write_atomic(file, f"{text}\n".encode())
            stamped += 1
    return stamped


if __name__ == "__main__":
    try:
        for name in sys.argv[1:]:
            print(f"{name}: {stamp(Path(name))} files stamped")
    except UserError as error:
        sys.exit(str(error))

"""Make the contact sheet of generated boards in docs/synthetic.md.

    .venv/bin/python benchmarks/contact_sheet.py [docs/images/synthetic-boards.png]

One row a site: its golden and a good specimen under white light, the same specimen under the other three lights, then
the specimen spoiled in four ways that this site allows.
"""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image, ImageDraw

from changenet.synthetic import LIGHTS, Request, make_plan
from changenet.synthetic.camera import TEST_DRIFT, take_pictures
from changenet.synthetic.defects import DEFECTS, possible_defects
from changenet.synthetic.sites import MAKERS
from changenet.synthetic.specimens import golden_pictures, good_specimen

SIZE = 96
GAP = 4
CAPTION = 14
SHOWN = 4
STEP = 8
SEED = 3


def main() -> None:
    """Draw the sheet and write it."""
    target = sys.argv[1] if len(sys.argv) > 1 else "docs/images/synthetic-boards.png"
    request = Request(pairs=400, lights=4, size=SIZE, seed=SEED)
    sites = make_plan(request).sites
    # One site of each kind of component, on changing designs.
    designs = len({site.board.name for site in sites})
    chosen = [kind * designs + kind % designs for kind in range(len(MAKERS))]
    shown: dict[str, int] = dict.fromkeys(DEFECTS, 0)
    columns = len(LIGHTS) + 1 + SHOWN
    sheet = Image.new("RGB", (columns * (SIZE + GAP) + GAP, len(chosen) * (SIZE + CAPTION + GAP) + GAP), (24, 24, 26))
    pen = ImageDraw.Draw(sheet)
    white = LIGHTS.index("WhiteLight")
    for row, number in enumerate(chosen):
        site = sites[number]
        rng = np.random.default_rng([request.seed, row])
        good = good_specimen(site, rng)
        tests = take_pictures(site, good, size=SIZE, lights=LIGHTS, drift=TEST_DRIFT, rng=rng)
        cells = [("golden", golden_pictures(site, request, number)[white]), ("PASS", tests[white])]
        cells += [(name, tests[LIGHTS.index(name)]) for name in LIGHTS if name != "WhiteLight"]
        # The kinds that were shown least so far.
        for kind in sorted(possible_defects(site), key=lambda kind: shown[kind])[:SHOWN]:
            shown[kind] += 1
            build = DEFECTS[kind](site, good_specimen(site, rng), rng)
            cells.append(
                (kind, take_pictures(site, build, size=SIZE, lights=("WhiteLight",), drift=TEST_DRIFT, rng=rng)[0])
            )
        for column, (name, picture) in enumerate(cells):
            x, y = GAP + column * (SIZE + GAP), GAP + row * (SIZE + CAPTION + GAP)
            sheet.paste(Image.fromarray(picture), (x, y + CAPTION))
            pen.text((x, y), name, fill=(220, 220, 220), font_size=11)
    # Fewer steps of colour keep the file small: sensor noise does not compress.
    steps = np.asarray(sheet) // STEP * STEP + STEP // 2
    Image.fromarray(steps.astype(np.uint8)).save(target, optimize=True)
    print(f"{target}: {sheet.width} x {sheet.height}")


if __name__ == "__main__":
    main()

"""The report of a sweep or of chosen runs: one HTML page, tables, and a bundle to hand in. It never imports torch.

``runs`` reads folders, ``axes`` finds what differs, ``pictures`` and ``citations`` add what a reader wants to see,
``view`` puts it together, ``page``, ``tables`` and ``bundle`` write it down, and ``write`` does all of it.
``selection`` says which runs figures for a paper show, ``figures`` takes their numbers and pictures, ``plots`` draws
them, and ``captions`` tells what is to be seen.
"""

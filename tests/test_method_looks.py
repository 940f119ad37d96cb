"""A method has one look, in every report and picture."""

from __future__ import annotations

from vitrim.method_looks import COLORS, DARK, KNOWN, look_of


def contrast(one, other):
    """The contrast of two colours, as WCAG 2 defines it."""
    light = sorted((luminance(each) + 0.05 for each in (one, other)), reverse=True)
    return light[0] / light[1]


def luminance(color):
    parts = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_each_known_method_has_a_look_of_its_own():
    assert len({look_of(name) for name in KNOWN}) == len(KNOWN)


def test_a_look_follows_from_the_name_alone():
    assert look_of("my_method") == look_of("my_method")
    assert look_of("my_method").color in {look_of(name).color for name in KNOWN}


def test_colours_stand_out_from_the_page():
    assert all(contrast(color, "#ffffff") >= 3 for color in COLORS)
    assert all(contrast(color, "#18202a") >= 3 for color in DARK)


def test_rivals_have_a_mark_and_no_colour_of_a_method():
    kinds = ("resolution", "depth", "model", "int8", "unread")
    looks = {look_of("any", rival) for rival in kinds}
    assert len(looks) == len(kinds) and not {look.color for look in looks} & {look_of(name).color for name in KNOWN}

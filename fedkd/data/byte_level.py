"""The characters that byte-level pieces of tokenizers are written in, each for one byte."""


def _printable_bytes() -> dict[str, int]:
    """Return the byte behind each character of byte-level pieces.

    Bytes that are printable in Latin-1 stand for themselves, the others for the characters from
    U+0100 on, by their codes.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + i): byte for i, byte in enumerate(others)
    }


BYTE_OF = _printable_bytes()

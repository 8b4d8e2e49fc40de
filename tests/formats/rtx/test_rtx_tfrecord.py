from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogx.errors import CorruptDataError, StorageError
from fogx.formats.rtx.tfrecord import RecordWriter, read_records

RECORDS = [b"first", b"", b"the third record"]


def everything(record: int) -> bool:
    return True


def written(path: Path, records: list[bytes]) -> Path:
    writer = RecordWriter(str(path))
    for record in records:
        writer.write(record)
    writer.close()
    return path


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, records: list[bytes]) -> None:
    path = written(tmp_path_factory.mktemp("records") / "file", records)
    assert list(read_records(str(path), everything)) == list(enumerate(records))


def test_bytes_are_those_of_tensorflow(tmp_path: Path) -> None:
    # tf.io.TFRecordWriter writes these for the record b"abc".
    expected = bytes.fromhex("0300000000000000b099490e6162636e57f121")
    assert written(tmp_path / "file", [b"abc"]).read_bytes() == expected


def test_writer_counts_data_without_framing(tmp_path: Path) -> None:
    writer = RecordWriter(str(tmp_path / "file"))
    for record in RECORDS:
        writer.write(record)
    writer.close()
    assert (writer.num_records, writer.num_bytes) == (3, sum(map(len, RECORDS)))


def test_every_truncation_is_found(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole", RECORDS).read_bytes()
    path = tmp_path / "cut"
    starts = {0: 0, 21: 1, 37: 2}  # 16 bytes of framing a record
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        good: list[tuple[int, bytes]] = []
        with pytest.raises(CorruptDataError, match=r"cut: ") as caught:
            good.extend(read_records(str(path), everything, stop=3, declared=3))
        complete = sum(length >= end for end in (21, 37, len(whole)))
        assert good == list(enumerate(RECORDS))[:complete]
        at = max(start for start in starts if start <= length)
        assert f"byte {at} " in str(caught.value)
        assert (f"record {complete} " if length not in starts else f"after {complete} whole records") in str(caught.value)


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole", RECORDS).read_bytes()
    path = tmp_path / "flipped"
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x41]) + whole[position + 1 :])
        with pytest.raises(CorruptDataError, match=r"flipped: record \d at byte \d+"):
            list(read_records(str(path), everything, stop=3, declared=3))


def test_records_before_the_damage_are_given(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole", RECORDS).read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-1])
    records = read_records(str(tmp_path / "cut"), everything)
    assert [next(records), next(records)] == [(0, b"first"), (1, b"")]
    with pytest.raises(CorruptDataError, match="record 2 at byte 37"):
        next(records)


def test_a_declared_length_beyond_the_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    from fogx.formats.rtx.tfrecord import _masked_crc

    length = struct.pack("<Q", 1 << 60)
    path = tmp_path / "bomb"
    path.write_bytes(length + struct.pack("<I", _masked_crc(length)) + b"x")
    with pytest.raises(CorruptDataError, match=rf"declares {(1 << 60) + 4} more bytes, the file has 1\b"):
        list(read_records(str(path), everything))


def test_range_and_wanted_decide_what_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "file", [bytes([i]) for i in range(6)])
    asked = []

    def even(record: int) -> bool:
        asked.append(record)
        return record % 2 == 0

    assert [i for i, _ in read_records(str(path), even, first=1, stop=5)] == [2, 4]
    assert asked == [1, 2, 3, 4]


def test_damage_in_a_record_that_is_not_wanted_does_no_harm(tmp_path: Path) -> None:
    path = written(tmp_path / "file", RECORDS)
    data = bytearray(path.read_bytes())
    data[12] ^= 1
    path.write_bytes(data)
    assert [i for i, _ in read_records(str(path), lambda record: record > 0)] == [1, 2]


@pytest.mark.parametrize(("declared", "says"), [(4, "ends at byte 69 after 3"), (2, "goes on at byte 37 after 2")])
def test_another_number_of_records_than_declared(tmp_path: Path, declared: int, says: str) -> None:
    path = written(tmp_path / "file", RECORDS)
    with pytest.raises(CorruptDataError, match=says):
        list(read_records(str(path), everything, stop=declared, declared=declared))


def test_part_of_a_shard_need_not_reach_its_end(tmp_path: Path) -> None:
    path = written(tmp_path / "file", RECORDS)
    assert len(list(read_records(str(path), everything, stop=2, declared=3))) == 2


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="absent: cannot be read: No such file"):
        list(read_records(str(tmp_path / "absent"), everything))

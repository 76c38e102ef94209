meta:
  id: lvd
  title: LVD, Live Virtual Disk
  file-extension:
    - lvd
    - lvb
    - lvg
  license: MIT OR Apache-2.0
  ks-version: '0.11'
  endian: le

doc: |
  An image (`.lvd`), a sidecar (`.lvb`) or a group file (`.lvg`) of version 1: two header slots, the records of each, and
  the sections that they name. Guest byte `g` of an image is byte `data_offset + g` of the file; the data area is not described further.

  The pages in this folder are normative, this description follows them. Fields have the names of their tables. Where a
  field is held to rules, its text begins with their numbers, and it fails to parse if it breaks them. A rule about
  several fields stands behind them as a field of no bytes that has the rule's number for its name; as an instance if
  only the header that counts has to keep it (`hdr_16`, `sec_08`: the older of two may name what was cut off since).

  What is not said here, since it takes a computation, a loop, or another file:

  * Which slot counts. `slot_0` and `slot_1` are both there to be parsed. The header is the one of the higher
    `sequence` among those whose `checksum` is right, and a slot whose checksum is wrong means nothing, whether it
    parses or not (HDR-05, HDR-06, HDR-17 to 20).
  * The checksums of sealed sectors (PAG-02). `sealed_sector.is_sealed` looks at the rest of PAG-01.
  * What holds among all records, or asks for one that is missing: that sections do not overlap each other, have
    different ids, and only one of them is the allocation section (SEC-05 to 07); what an overlay and a sidecar must
    have (REC-09, SEC-09, SID-01), and a group and what is in one (GRP-01, GRP-04); names and sections of bitmaps (BMP-03, BMP-04).
  * What depends on how a file is opened and on what with: HDR-09, chains, volumes, epochs.
doc-ref: spec/README.md

seq:
  - id: hdr_01
    size: 0
    valid:
      expr: _io.size >= 131072
    doc: HDR-01. The file is at least as long as both slots.

instances:
  slot_0:
    pos: 0
    type: header
    doc-ref: spec/format.md#2-header-slots
  slot_1:
    pos: 65536
    type: header
    doc-ref: spec/format.md#2-header-slots

types:
  header:
    doc-ref: spec/format.md#3-the-fixed-header
    seq:
      - id: magic
        contents: [0x89, LVD, 0x0d, 0x0a, 0x1a, 0x0a]
        doc: HDR-02
      - id: version
        type: u4
        valid: 1
        doc: HDR-03
      - id: header_length
        type: u4
        valid:
          expr: _ % 8 == 0 and _ >= 128 and _ <= 65536
        doc: HDR-04. Bytes of the fixed header and all records; what the checksum covers.
      - id: checksum
        type: u4
        doc: HDR-05. The crc32c of `header_length` bytes, with this field as zeros.
      - id: kind
        type: u2
        enum: kind
        valid:
          in-enum: true
        doc: HDR-10
      - id: state
        type: u2
        enum: state
        valid:
          in-enum: true
        doc: HDR-11. How the last session ended.
      - id: sequence
        type: u8
        valid:
          min: 1
          max: 0x7fff_ffff_ffff_ffff
        doc: HDR-15. One more with each header update.
      - id: uuid
        type: uuid
        valid:
          expr: not _.is_nil
        doc: HDR-12. Identity of the disk; never changes.
      - id: epoch
        type: uuid
        valid:
          expr: not _.is_nil
        doc: HDR-12. Names the content; random.
      - id: virtual_size
        type: u8
        valid:
          max: 0x1000_0000_0000_0000
        doc: HDR-13. Bytes of the disk.
      - id: data_offset
        type: u8
        valid:
          expr: >-
            kind != kind::image ? _ == 0 : _ % 4096 == 0 and _ >= 131072 and _ <= 0x1000_0000_0000_0000
        doc: HDR-14. File offset of guest byte 0; 0 in any other file than an image.
      - id: incompat
        type: u8
        valid: 0
        doc: HDR-08. A reader that does not know a set bit refuses, whatever the other fields say.
      - id: ro_compat
        type: u8
        doc: HDR-09. A writer that does not know a set bit opens read-only. Bit 0 comes with a group mark (GRP-04).
      - id: compat
        type: u8
        doc: HDR-21. May be ignored by all.
      - id: record_count
        type: u4
        doc: Number of records; REC-01 is judged behind them.
      - id: reserved
        size: 20
        valid:
          expr: _.max == 0
        doc: HDR-07
      - id: record_list
        size: header_length - 128
        type: record_list
      - id: rec_01
        size: 0
        valid:
          expr: record_list.records.size == record_count
        doc: REC-01. The records fill the header exactly, as many as it says.
      - id: grp_02
        size: 0
        valid:
          expr: kind != kind::group or virtual_size == 0
        doc: GRP-02. A group file holds no disk.
    instances:
      hdr_16:
        pos: 0
        size: 0
        valid:
          expr: kind != kind::image or data_offset + virtual_size <= _root._io.size
        doc: HDR-16. The file of an image reaches the end of its data area.

  uuid:
    doc: The sixteen bytes in the order in which they are printed.
    doc-ref: spec/README.md#conventions
    seq:
      - id: bytes
        size: 16
    instances:
      is_nil:
        value: bytes.max == 0

  # Records

  record_list:
    seq:
      - id: records
        type: record(_index)
        repeat: eos

  record:
    doc-ref: spec/format.md#4-records
    params:
      - id: place
        type: u4
        doc: Number of the record in its header, from 0.
    seq:
      - id: record_type
        type: u2
        enum: record_type
        valid:
          expr: place == 0 or _.to_i >= previous.record_type.to_i
        doc: REC-12. Records are in ascending order of their type.
      - id: flags
        type: u2
        valid:
          max: 1
        doc: REC-04. Bit 0 says that the record is required.
      - id: length
        type: u4
        valid:
          min: least_length
          max: _io.size - _io.pos
        doc: REC-05, REC-01. Bytes of payload.
      - id: payload
        size: length
        type:
          switch-on: record_type
          cases:
            record_type::section: section
            record_type::parent: parent
            record_type::merge_mark: merge_mark
            record_type::copy_mark: copy_mark
            record_type::host: host
            record_type::bitmap: bitmap_payload
            record_type::point: point_payload
            record_type::group_mark: group_mark
            record_type::decision: decision
            _: unknown_payload
        valid:
          expr: _._io.eof
        doc: REC-05. A record is as long as its type says.
      - id: padding
        size: (8 - length % 8) % 8
        valid:
          expr: _.length == 0 or _.max == 0
        doc: REC-02
      - id: rec_03
        size: 0
        valid:
          expr: is_known or not is_required
        doc: REC-03. No required record is unknown; bitmaps and points are never required (BMP-01).
      - id: rec_06
        size: 0
        valid:
          expr: >-
            not is_known or place == 0 or record_type != previous.record_type
            or record_type == record_type::section
            and (place < 64 or _parent.records[place - 64].record_type != record_type::section)
        doc: >-
          REC-06. At most one parent, mark of a kind, host and decision, and at most 64 sections; those of one type are
          neighbours.
      - id: rec_11
        size: 0
        valid:
          expr: >-
            record_type == record_type::group_mark ? not is_required : is_required or not is_known
            or record_type == record_type::section and payload.as<section>.kind != section_kind::allocation
        doc: >-
          REC-11. A parent, a merge or copy mark, a host, a decision and an allocation section are in required records, a
          group mark is not.
      - id: grp_02
        size: 0
        valid:
          expr: >-
            _parent._parent.kind != kind::group or not is_known or record_type == record_type::decision
        doc: GRP-02. A group file holds nothing of a disk.
    instances:
      is_required:
        value: (flags & 1) == 1
      is_known:
        value: >-
          record_type.to_i >= record_type::section.to_i and record_type.to_i <= record_type::host.to_i
          or record_type == record_type::group_mark or record_type == record_type::decision
        doc: Its rules are the file's; a bitmap or a point that breaks one is none (BMP-01).
      least_length:
        value: >-
          record_type == record_type::section ? 56 :
          record_type == record_type::parent ? 64 :
          record_type == record_type::merge_mark ? 48 :
          record_type == record_type::copy_mark ? 32 :
          record_type == record_type::host ? 32 :
          record_type == record_type::group_mark ? 32 :
          record_type == record_type::decision ? 16 : 0
      previous:
        value: _parent.records[place - 1]
        if: place > 0

  unknown_payload:
    doc: Of a type that this version does not know. Ignored and kept (REC-13).
    seq:
      - id: bytes
        size-eos: true

  section:
    doc: |
      A range of the file that holds one bit for each granule of the disk. Of unknown kinds (SEC-01) only the place is
      known.
    doc-ref: spec/format.md#5-sections
    seq:
      - id: id
        type: uuid
        valid:
          expr: not _.is_nil
        doc: SEC-06. Part of the checksum of every sector (PAG-02).
      - id: kind
        type: u2
        enum: section_kind
        valid:
          expr: is_known or not _parent.is_required
        doc: SEC-01
      - id: granularity_shift
        type: u1
        valid:
          expr: 'not is_known or _ >= 12 and _ <= (kind == section_kind::intent ? 48 : 24)'
        doc: SEC-02
      - id: reserved
        size: 5
        valid:
          expr: _.max == 0
        doc: REC-05
      - id: offset
        type: u8
        valid:
          expr: _ % 4096 == 0 and _ >= 131072 and _ <= 0x2000_0000_0000_0000
        doc: SEC-03. File offset of the section.
      - id: length
        type: u8
        valid:
          expr: _ % 4096 == 0 and _ <= 0x2000_0000_0000_0000 - offset
        doc: SEC-03. Bytes of the section.
      - id: covered
        type: u8
        valid:
          expr: kind != section_kind::allocation or _ == header.virtual_size
        doc: SEC-07. Bytes of disk, from byte 0 on, that the bits speak of.
      - id: reserved2
        size: 8
        valid:
          expr: _.max == 0
        doc: REC-05
      - id: sec_04
        size: 0
        valid:
          expr: not is_known or page_count * 4096 <= length
        doc: SEC-04. The section is long enough for its bits.
      - id: sec_05
        size: 0
        valid:
          expr: >-
            header.kind != kind::image or header.virtual_size == 0 or length == 0
            or offset + length <= header.data_offset
            or offset >= header.data_offset + header.virtual_size
        doc: SEC-05. The section does not overlap the data area.
    instances:
      header:
        value: _parent._parent._parent
      is_known:
        value: kind.to_i >= section_kind::allocation.to_i and kind.to_i <= section_kind::sync.to_i
      granule:
        value: 0x1_0000_0000_0000 >> (48 - granularity_shift)
        if: is_known
        doc: 2 to the power of `granularity_shift`, as a target with 32-bit integers computes it too.
      bit_count:
        value: covered / granule + (covered % granule != 0).to_i
        if: is_known
      page_count:
        value: (bit_count + 8 * 3968 - 1) / (8 * 3968)
        if: is_known
        doc: Pages that the bits need. Pages behind them have no meaning.
      sec_08:
        pos: 0
        size: 0
        valid:
          expr: kind != section_kind::allocation or offset + length <= _root._io.size
        doc: SEC-08. An allocation section lies within the file.
      pages:
        io: _root._io
        pos: offset
        type: page(_index)
        repeat: expr
        repeat-expr: page_count
        if: is_known
        doc: May be many. A page past the end of the file cannot be read (BMP-05).

  page:
    doc-ref: spec/format.md#6-sealed-sectors
    params:
      - id: number
        type: u8
        doc: Number of the page in its section, from 0.
    seq:
      - id: sectors
        type: sealed_sector(number * 8 + _index)
        repeat: expr
        repeat-expr: 8

  sealed_sector:
    doc: |
      Empty, sealed, or bad (PAG-01 to 03). One that is bad makes the blocks of its bits unreadable and is no fault of
      the file (PAG-04), so it parses.
    doc-ref: spec/format.md#6-sealed-sectors
    params:
      - id: number
        type: u8
        doc: Number of the sector in its section, from 0.
    seq:
      - id: bits
        size: 496
        doc: Bit n of the section is bit n mod 8 of byte (n mod 3968) div 8 of sector n div 3968.
      - id: index
        type: u8
        doc: PAG-01. The sector's own number, if it is sealed.
      - id: marker
        size: 4
        doc: PAG-01. `SEAL`, if it is sealed.
      - id: checksum
        type: u4
        doc: PAG-02. The crc32c of the section's `id` and the first 508 bytes of the sector.
    instances:
      is_empty:
        value: bits.max == 0 and index == 0 and marker.max == 0 and checksum == 0
        doc: PAG-03. Never written; all bits are clear.
      is_sealed:
        value: index == number and marker == [0x53, 0x45, 0x41, 0x4c]
        doc: PAG-01, but for the checksum.

  parent:
    doc: The link to the layer below.
    doc-ref: spec/chain.md#2-the-link
    seq:
      - id: uuid
        type: uuid
        doc: The parent's UUID; nil if it has no identity.
      - id: epoch
        type: uuid
        doc: The parent's epoch when the link was made (CHN-03); nil if it has no identity.
      - id: flags
        type: u4
        valid:
          max: 1
        doc: REC-07. Bit 0 says that the parent has an identity.
      - id: format
        type: u4
        enum: parent_format
        valid:
          in-enum: true
        doc: REC-07
      - id: visible_length
        type: u8
        valid:
          max: _parent._parent._parent.virtual_size
        doc: CHN-05. Bytes of the parent that the child sees, from byte 0 on.
      - id: hint_length
        type: u4
        valid:
          expr: _ <= 4096 and _ == _io.size - 64
        doc: REC-08, REC-05
      - id: reserved
        size: 12
        valid:
          expr: _.max == 0
        doc: REC-05
      - id: rec_07
        size: 0
        valid:
          expr: uuid.is_nil != has_identity and epoch.is_nil != has_identity
        doc: REC-07. UUID and epoch are there exactly if the flags say so.
      - id: hint
        size: hint_length
        valid:
          expr: _.length == 0 or _.min != 0
        doc: REC-08. Where the parent may be found; data, never an instruction (CHN-01).
    instances:
      has_identity:
        value: (flags & 1) == 1
      hint_text:
        value: hint.to_s("UTF-8")
        doc: REC-08. Whether bytes that are no UTF-8 fail here is up to the target language.

  merge_mark:
    doc: The file is being merged into, and opens only below the child that it names (CHN-04).
    doc-ref: spec/chain.md#merge-mark
    seq:
      - id: child_uuid
        type: uuid
        valid:
          expr: not _.is_nil
        doc: REC-10
      - id: child_epoch
        type: uuid
        valid:
          expr: not _.is_nil
        doc: REC-10
      - id: reserved
        size: 16
        valid:
          expr: _.max == 0
        doc: REC-05

  copy_mark:
    doc: The file is not a copy yet (CHN-06).
    doc-ref: spec/chain.md#copy-mark
    seq:
      - id: group
        type: uuid
        doc: The group that decides when it is a copy; nil if there is none.
      - id: reserved
        size: 16
        valid:
          expr: _.max == 0
        doc: REC-05

  host:
    doc: What a sidecar stands beside.
    doc-ref: spec/format.md#8-sidecars
    seq:
      - id: format
        type: u4
        enum: host_format
        valid:
          in-enum: true
        doc: SID-03
      - id: reserved
        size: 4
        valid:
          expr: _.max == 0
        doc: REC-05
      - id: length
        type: u8
        valid:
          min: header.virtual_size
        doc: SID-04. Bytes of the volume, or of the image's disk, that the sidecar speaks of.
      - id: former
        type: uuid
        doc: The image's epoch before that of the sidecar (EPO-05), or a fingerprint of the volume.
      - id: sid_01
        size: 0
        valid:
          expr: header.kind != kind::image
        doc: SID-01. An image has no host.
    instances:
      header:
        value: _parent._parent._parent
      fingerprint:
        pos: 16
        type: fingerprint
        if: format == host_format::raw

  fingerprint:
    doc: EPO-07. What tells whether a volume was changed by others. Zeros say that nobody knows.
    doc-ref: spec/bitmaps.md#5-epochs
    seq:
      - id: modified
        type: u8
        doc: Nanoseconds since 1970.
      - id: inode
        type: u8

  group_mark:
    doc: A group decides whether the disk has moved to a copy of it (GRP-06).
    doc-ref: spec/groups.md#2-marks
    seq:
      - id: group
        type: uuid
        valid:
          expr: not _.is_nil
        doc: GRP-04
      - id: reserved
        size: 16
        valid:
          expr: _.max == 0
        doc: REC-05
      - id: grp_04
        size: 0
        valid:
          expr: (_parent._parent._parent.ro_compat & 1) == 1
        doc: GRP-04. The feature says that there is a group mark.

  decision:
    doc: What a group has decided.
    doc-ref: spec/groups.md#1-the-groups-file
    seq:
      - id: decision
        type: u4
        enum: group_decision
        valid:
          in-enum: true
        doc: GRP-03
      - id: reserved
        size: 12
        valid:
          expr: _.max == 0
        doc: REC-05
      - id: grp_01
        size: 0
        valid:
          expr: _parent._parent._parent.kind == kind::group
        doc: GRP-01. No other file has a decision.

  # Dirty bitmaps and backup points. A record that breaks their rules is none, and no fault of the file (BMP-01). They
  # are instances hence: only who asks for one is told.

  bitmap_payload:
    seq:
      - id: bytes
        size-eos: true
    instances:
      bitmap:
        pos: 0
        type: bitmap
        if: _io.size > 64
        doc: BMP-01. Fails, or is not there, if the record is no bitmap.

  bitmap:
    doc-ref: spec/bitmaps.md#1-records
    seq:
      - id: section
        type: uuid
        doc: BMP-04. The `id` of its section, of kind dirty or sync.
      - id: since
        type: uuid
        valid:
          expr: not _.is_nil
        doc: BMP-02. Names the point from which on it tells.
      - id: epoch
        type: uuid
        valid:
          expr: not _.is_nil
        doc: BMP-02. Names the content up to which it tells.
      - id: state
        type: u2
        enum: bitmap_state
        valid:
          in-enum: true
        doc: BMP-02
      - id: name_length
        type: u2
        valid:
          expr: _ >= 1 and _ <= 1023 and _ == _io.size - 64
        doc: BMP-03, BMP-02
      - id: reserved
        size: 12
        valid:
          expr: _.max == 0
        doc: BMP-02
      - id: name
        size: name_length
        valid:
          expr: _.min != 0
        doc: BMP-03
    instances:
      name_text:
        value: name.to_s("UTF-8")
        doc: BMP-03. Whether bytes that are no UTF-8 fail here is up to the target language.

  point_payload:
    seq:
      - id: bytes
        size-eos: true
    instances:
      point:
        pos: 0
        type: point
        if: _io.size == 32

  point:
    doc: Which content of which disk a backup holds. The first one in the header counts.
    doc-ref: spec/bitmaps.md#8-backup-points
    seq:
      - id: source
        type: uuid
        doc: The UUID of the disk that was copied.
      - id: point
        type: uuid
        doc: The `since` of the bitmap that tells of the changes after it.

enums:
  kind:
    1: image
    2: sidecar
    3: group
  state:
    0:
      id: closed
      doc: The last session ended cleanly.
    1:
      id: filling
      doc: A session fills absent blocks from below, or did not end cleanly. The content is unchanged.
    2:
      id: writing
      doc: A session may change the content, or did not end cleanly. The content is one that the crash allows.
  record_type:
    1: section
    2: parent
    3: merge_mark
    4: copy_mark
    5: host
    6: bitmap
    7: point
    8: group_mark
    9: decision
  section_kind:
    1:
      id: allocation
      doc: A set bit says that this layer holds the block.
    2:
      id: dirty
      doc: A set bit says that the guest changed the granule.
    3:
      id: intent
      doc: A set bit says that dirty bits of the region may not be on disk yet.
    4:
      id: sync
      doc: A set bit says that the granule differs from a copy target.
  parent_format:
    1: lvd
    2: raw
    3: qcow2
    4: qed
    5: vmdk
  host_format:
    1: lvd
    2: raw
  group_decision:
    0: undecided
    1: moved
  bitmap_state:
    0: disabled
    1: recording
    2: frozen

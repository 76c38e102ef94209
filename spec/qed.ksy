meta:
  id: qed
  title: QED image, as a parent of an LVD image
  file-extension: qed
  license: MIT OR Apache-2.0
  ks-version: '0.11'
  endian: le

doc: |
  The header of an image in QEMU's former format QED, with the rules by which a reader of LVD takes one as a parent.
  Tables and clusters are not described (QED-09). That the name of the backing file is UTF-8 (QED-06) is not checked
  by every target language.
doc-ref: spec/foreign.md#1-qed

seq:
  - id: header
    type: qed_header

types:
  qed_header:
    seq:
      - id: magic
        contents: [QED, 0]
        doc: QED-01
      - id: cluster_size
        type: u4
        valid:
          expr: _ >= 0x1000 and _ <= 0x400_0000 and (_ & (_ - 1)) == 0
        doc: QED-03. Bytes of a cluster.
      - id: table_size
        type: u4
        valid:
          any-of: [1, 2, 4, 8, 16]
        doc: QED-03. Clusters of a table.
      - id: header_size
        type: u4
        doc: Clusters of the header.
      - id: features
        type: u8
        valid:
          expr: _ <= 7 and ((_ & 1) == 0 or (_ & 4) == 4)
        doc: |
          QED-02, QED-07. Bit 0 says that there is a backing file, bit 1 that the image needs a check, bit 2 that the
          backing file is raw.
      - id: compat_features
        type: u8
      - id: autoclear_features
        type: u8
      - id: l1_table_offset
        type: u8
        valid:
          expr: >-
            _ % cluster_size == 0 and _ >= header_size * cluster_size and _ != 0
            and _ + table_size * cluster_size <= _io.size
        doc: QED-05
      - id: image_size
        type: u8
        valid:
          expr: >-
            _ % 512 == 0 and _ <= 0x1000_0000_0000_0000
            and (_ + cluster_size - 1) / cluster_size <= entries * entries
        doc: QED-04. Bytes of the disk.
      - id: backing_filename_offset
        type: u4
      - id: backing_filename_size
        type: u4
        valid:
          expr: >-
            not has_backing_file
            or _ <= 4096 and backing_filename_offset + _ <= header_size * cluster_size
        doc: QED-06
    instances:
      has_backing_file:
        value: (features & 1) == 1
      entries:
        value: table_size * cluster_size / 8
        doc: Entries of a table.
      backing_filename:
        pos: backing_filename_offset
        size: backing_filename_size
        if: has_backing_file
        valid:
          expr: _.length == 0 or _.min != 0
        doc: QED-06
      backing_filename_text:
        value: backing_filename.to_s("UTF-8")
        if: has_backing_file

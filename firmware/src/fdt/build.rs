//! Makes blobs for tests: streaming, no checks, so that it can make wrong ones too.

/// A blob in the making.
#[derive(Default)]
pub(crate) struct Blob {
    pub(crate) structure: Vec<u8>,
    strings: Vec<u8>,
    pub(crate) reserved: Vec<(u64, u64)>,
}

impl Blob {
    fn word(&mut self, word: u32) {
        self.structure.extend(word.to_be_bytes());
    }
    fn pad(&mut self) {
        while !self.structure.len().is_multiple_of(4) {
            self.structure.push(0);
        }
    }
    pub(crate) fn begin(&mut self, name: &str) -> &mut Self {
        self.word(super::BEGIN_NODE);
        self.structure.extend(name.as_bytes());
        self.structure.push(0);
        self.pad();
        self
    }
    pub(crate) fn end(&mut self) -> &mut Self {
        self.word(super::END_NODE);
        self
    }
    pub(crate) fn prop(&mut self, name: &str, value: &[u8]) -> &mut Self {
        self.word(super::PROP);
        self.word(u32::try_from(value.len()).unwrap());
        let at = u32::try_from(self.strings.len()).unwrap();
        self.word(at);
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
        self.structure.extend(value);
        self.pad();
        self
    }
    pub(crate) fn cells(&mut self, name: &str, cells: &[u32]) -> &mut Self {
        let bytes: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        self.prop(name, &bytes)
    }
    pub(crate) fn wide(&mut self, name: &str, numbers: &[u64]) -> &mut Self {
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_be_bytes()).collect();
        self.prop(name, &bytes)
    }
    pub(crate) fn text(&mut self, name: &str, text: &str) -> &mut Self {
        self.prop(name, format!("{text}\0").as_bytes())
    }
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        self.word(super::END);
        let mut rsv: Vec<u8> = self
            .reserved
            .iter()
            .flat_map(|(a, l)| [a.to_be_bytes(), l.to_be_bytes()].concat())
            .collect();
        rsv.extend([0; 16]);
        let structure_at = 40 + rsv.len();
        let strings_at = structure_at + self.structure.len();
        let size = strings_at + self.strings.len();
        let header = [
            0xd00d_feed,
            size,
            structure_at,
            strings_at,
            40,
            17,
            16,
            0,
            self.strings.len(),
            self.structure.len(),
        ];
        let mut blob: Vec<u8> = header
            .iter()
            .flat_map(|w| u32::try_from(*w).unwrap().to_be_bytes())
            .collect();
        blob.extend(rsv);
        blob.extend(&self.structure);
        blob.extend(&self.strings);
        blob
    }
}

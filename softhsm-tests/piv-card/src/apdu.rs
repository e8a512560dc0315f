//! Commands and answers on the wire (ISO 7816-4), with their chaining.

/// A command, put together again when it came in parts.
#[derive(Debug, Clone, Default)]
pub struct Apdu {
    pub class: u8,
    pub instruction: u8,
    pub p1: u8,
    pub p2: u8,
    pub data: Vec<u8>,
}

/// A status word that is not 9000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status(pub u16);

impl Status {
    pub const SECURITY: Self = Self(0x6982);
    pub const BLOCKED: Self = Self(0x6983);
    pub const CONDITIONS: Self = Self(0x6985);
    pub const DATA: Self = Self(0x6a80);
    pub const NOT_FOUND: Self = Self(0x6a82);
    pub const PARAMETERS: Self = Self(0x6a86);
    pub const REFERENCE: Self = Self(0x6a88);
    pub const LENGTH: Self = Self(0x6700);
    pub const INSTRUCTION: Self = Self(0x6d00);

    /// A wrong PIN, after which so many tries are left.
    pub fn tries(left: u8) -> Self {
        Self(0x63c0 | u16::from(left & 0xf))
    }
}

/// What a command answers.
pub type Answer = Result<Vec<u8>, Status>;

impl Apdu {
    /// Reads a command, short or extended.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (&[class, instruction, p1, p2], body) = bytes.split_first_chunk::<4>()?;
        let data = match body {
            [] | [_] => &[],
            [0, high, low, rest @ ..] if !rest.is_empty() => {
                rest.get(..usize::from(u16::from_be_bytes([*high, *low])))?
            }
            [0, _, _] => &[],
            [length, rest @ ..] => rest.get(..usize::from(*length))?,
        };
        Some(Self { class, instruction, p1, p2, data: data.to_vec() })
    }

    /// As one extended command without chaining.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.class & !0x10, self.instruction, self.p1, self.p2, 0];
        let length = u16::try_from(self.data.len()).expect("a command is short");
        if length > 0 {
            bytes.extend(length.to_be_bytes());
            bytes.extend(&self.data);
        }
        bytes.extend([0, 0]);
        bytes
    }
}

/// The parts of commands that came, and of answers that have not gone.
#[derive(Debug, Default)]
pub struct Chaining {
    coming: Vec<u8>,
    going: Vec<u8>,
}

impl Chaining {
    /// The whole command, or what is answered to a part of one.
    pub fn whole(&mut self, bytes: &[u8]) -> Result<Apdu, Vec<u8>> {
        let Some(mut apdu) = Apdu::parse(bytes) else { return Err(word(Status::LENGTH.0)) };
        if apdu.instruction == 0xc0 {
            return Err(self.more());
        }
        self.going.clear();
        self.coming.append(&mut apdu.data);
        if apdu.class & 0x10 != 0 {
            return Err(word(0x9000));
        }
        apdu.data = std::mem::take(&mut self.coming);
        Ok(apdu)
    }

    /// The first part of an answer.
    pub fn answer(&mut self, answer: Answer) -> Vec<u8> {
        match answer {
            Ok(data) => {
                self.going = data;
                self.more()
            }
            Err(status) => word(status.0),
        }
    }

    fn more(&mut self) -> Vec<u8> {
        let rest = self.going.split_off(self.going.len().min(256));
        let mut part = std::mem::replace(&mut self.going, rest);
        part.extend(match self.going.len() {
            0 => word(0x9000),
            left => word(0x6100 | u16::try_from(left.min(255)).unwrap_or(0)),
        });
        part
    }
}

fn word(status: u16) -> Vec<u8> {
    status.to_be_bytes().to_vec()
}

/// A data object: tag, length, value (ISO 7816-4, 5.2.2).
pub fn object(tag: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = tag.to_vec();
    match u16::try_from(value.len()).expect("an object is short").to_be_bytes() {
        [0, short @ 0..=0x7f] => bytes.push(short),
        [0, long] => bytes.extend([0x81, long]),
        [high, low] => bytes.extend([0x82, high, low]),
    }
    bytes.extend(value);
    bytes
}

/// The value of the first object with a tag of one byte.
pub fn find(mut bytes: &[u8], wanted: u8) -> Option<&[u8]> {
    loop {
        let (tag, value, rest) = next(bytes)?;
        if tag == wanted {
            return Some(value);
        }
        bytes = rest;
    }
}

fn next(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (length, rest) = match bytes.get(1..)? {
        [0x81, length, rest @ ..] => (usize::from(*length), rest),
        [0x82, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        [length @ 0..=0x7f, rest @ ..] => (usize::from(*length), rest),
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((bytes[0], value, rest))
}

//! Writes a CSV file of invented customers: `customers FILE ROWS SEED`.
//!
//! The same seed gives the same file. The fields have the shape of real ones
//! (check digits included), but belong to nobody: card numbers start with 9,
//! id numbers with a region code that is not in use.

use std::error::Error;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write as _};

const FAMILY: [&str; 16] =
    ["王", "李", "张", "刘", "陈", "杨", "赵", "黄", "周", "吴", "欧阳", "司马", "孙", "马", "朱", "胡"];
const GIVEN: [&str; 16] =
    ["伟", "芳", "娜", "秀英", "敏", "静", "丽", "强", "磊", "洋", "艳", "勇", "杰", "晓明", "雨桐", "子涵"];
const FIRST: [&str; 12] = [
    "Anna", "José", "Søren", "Zoë", "Liam", "Chloé", "Jürgen", "Ewa", "Mary-Ann", "Niamh", "Łukasz", "Björn",
];
const LAST: [&str; 12] = [
    "O'Neill",
    "García",
    "Møller",
    "Müller",
    "Smith",
    "Dvořák",
    "Šimić",
    "Le Goff",
    "van der Berg",
    "Kowalski",
    "Brown",
    "D'Angelo",
];
const CITIES: [&str; 8] = [
    "北京市朝阳区",
    "上海市浦东新区",
    "广州市天河区",
    "深圳市南山区",
    "成都市武侯区",
    "杭州市西湖区",
    "西安市雁塔区",
    "哈尔滨市道里区",
];
const ROADS: [&str; 6] = ["人民路", "中山大道", "解放街", "建设路", "和平里", "长江路"];
const STREETS: [&str; 6] =
    ["High Street", "Rue de l'Église", "Königsallee", "Calle Mayor", "Ulica Długa", "Elm Road"];
const TOWNS: [&str; 6] = ["London", "Lyon", "Düsseldorf", "Málaga", "Kraków", "Springfield, IL"];

/// A small generator with a fixed sequence (SplitMix64): enough for test data, never for keys.
struct Sequence(u64);

impl Sequence {
    fn new(seed: &str) -> Self {
        // FNV-1a of the seed.
        Self(seed.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        }))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[usize::try_from(self.below(list.len() as u64)).unwrap_or_default()]
    }

    fn digits(&mut self, count: usize) -> String {
        (0..count).map(|_| char::from(b'0' + (self.below(10) % 10) as u8)).collect()
    }
}

/// One row without its line end.
fn customer(id: u64, random: &mut Sequence) -> String {
    let chinese = random.below(2) == 0;
    let fields = [
        id.to_string(),
        name(chinese, random),
        phone(chinese, random),
        id_number(random),
        // Not everybody has one: empty cells occur in real files.
        if random.below(20) == 0 { String::new() } else { bank_card(random) },
        address(chinese, random),
    ];
    fields.map(|field| quoted(&field)).join(",")
}

fn name(chinese: bool, random: &mut Sequence) -> String {
    if chinese {
        format!("{}{}", random.one_of(&FAMILY), random.one_of(&GIVEN))
    } else {
        format!("{} {}", random.one_of(&FIRST), random.one_of(&LAST))
    }
}

fn phone(chinese: bool, random: &mut Sequence) -> String {
    if chinese {
        format!("1{}{}", 3 + random.below(7), random.digits(9))
    } else {
        // The range that the British regulator keeps for fiction.
        format!("+44 7700 900{}", random.digits(3))
    }
}

/// 17 digits and the check character of GB 11643 (ISO 7064 MOD 11-2).
fn id_number(random: &mut Sequence) -> String {
    let mut text = format!(
        "990{}{}{:02}{:02}{}",
        random.digits(3),
        1940 + random.below(66),
        1 + random.below(12),
        1 + random.below(28),
        random.digits(3)
    );
    let sum = text.bytes().fold(0, |sum, digit| (sum + u32::from(digit - b'0')) * 2 % 11);
    text.push(char::from(b"10X98765432"[(sum % 11) as usize]));
    text
}

/// 16 digits, the last one by Luhn's rule.
fn bank_card(random: &mut Sequence) -> String {
    let mut text = format!("9{}", random.digits(14));
    let sum: u32 = text
        .bytes()
        .enumerate()
        .map(|(place, digit)| match (place % 2, u32::from(digit - b'0')) {
            (0, digit) if digit > 4 => digit * 2 - 9,
            (0, digit) => digit * 2,
            (_, digit) => digit,
        })
        .sum();
    let _ = write!(text, "{}", (10 - sum % 10) % 10);
    text
}

fn address(chinese: bool, random: &mut Sequence) -> String {
    let (number, room) = (1 + random.below(300), 101 + random.below(2800));
    if chinese {
        format!("{}{}{number}号{room}室", random.one_of(&CITIES), random.one_of(&ROADS))
    } else if random.below(10) == 0 {
        format!("\"The Mill\", {number} {}, {}", random.one_of(&STREETS), random.one_of(&TOWNS))
    } else {
        format!("{number} {}, {}", random.one_of(&STREETS), random.one_of(&TOWNS))
    }
}

/// RFC 4180: quoted only where it must be.
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, rows, seed] = arguments.as_slice() else {
        return Err("usage: customers FILE ROWS SEED".into());
    };
    let mut random = Sequence::new(seed);
    let mut out = BufWriter::new(File::create_new(file)?);
    writeln!(out, "id,name,phone,id_number,bank_card,address")?;
    for id in 1..=rows.parse()? {
        writeln!(out, "{}", customer(id, &mut random))?;
    }
    out.into_inner()?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_digits_hold() {
        let mut random = Sequence::new("test");
        for _ in 0..1000 {
            let id = id_number(&mut random);
            let weighted: u32 = id
                .bytes()
                .zip([7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2, 1])
                .map(|(c, weight)| weight * if c == b'X' { 10 } else { u32::from(c - b'0') })
                .sum();
            assert_eq!((id.len(), weighted % 11), (18, 1), "{id}");
            let card = bank_card(&mut random);
            let luhn: u32 = card
                .bytes()
                .rev()
                .enumerate()
                .map(|(place, c)| u32::from(c - b'0') * (1 + place as u32 % 2))
                .map(|n| n / 10 + n % 10)
                .sum();
            assert_eq!((card.len(), luhn % 10), (16, 0), "{card}");
        }
    }

    #[test]
    fn a_seed_names_one_file() {
        let rows = |seed| {
            let mut random = Sequence::new(seed);
            (1..50).map(|id| customer(id, &mut random)).collect::<Vec<_>>()
        };
        assert_eq!(rows("acme"), rows("acme"));
        assert_ne!(rows("acme"), rows("globex"));
    }
}

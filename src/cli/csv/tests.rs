//! The CSV engine over a reversible toy instead of a daemon.

use proptest::prelude::*;

use super::*;
use crate::cli::text;

/// Seals by putting the context in front; opens what it sealed in the same context.
#[derive(Default)]
struct Toy {
    open: bool,
    batches: Vec<usize>,
    advanced: u64,
    failures: Vec<String>,
}

impl Worker for Toy {
    async fn work(&mut self, cells: Vec<Cell>) -> Result<Vec<Outcome>, Failure> {
        self.batches.push(cells.len());
        Ok(cells.into_iter().map(|cell| self.one(cell)).collect())
    }

    fn advance(&mut self, bytes: u64) {
        self.advanced += bytes;
    }

    fn failed(&mut self, failure: Failure) {
        self.failures.push(failure.to_string());
    }
}

impl Toy {
    fn one(&self, Cell { value, context }: Cell) -> Outcome {
        let mark = format!("{context:?}|").into_bytes();
        if self.open {
            let sealed = text::decode(&value)?;
            let plain = sealed.strip_prefix(&mark[..]);
            plain.map(<[u8]>::to_vec).ok_or_else(|| Failure::Refused {
                reason: "CIPHERTEXT_REFUSED",
                message: "another context".into(),
            })
        } else {
            Ok(text::encode(&[&mark[..], &value].concat()).into_bytes())
        }
    }
}

fn plan(columns: &[&str], bind: &[&str]) -> Plan {
    let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Plan { columns: own(columns), bind: own(bind), delimiter: b',', ..Plan::default() }
}

async fn run(plan: &Plan, input: &[u8], toy: &mut Toy) -> Result<(Vec<u8>, Summary), Failure> {
    let mut output = Vec::new();
    let summary = transform(plan, input, &mut output, toy).await?;
    Ok((output, summary))
}

async fn seal(plan: &Plan, input: &[u8]) -> Result<Vec<u8>, Failure> {
    Ok(run(plan, input, &mut Toy::default()).await?.0)
}

async fn open(plan: &Plan, input: &[u8]) -> Result<Vec<u8>, Failure> {
    Ok(run(plan, input, &mut Toy { open: true, ..Toy::default() }).await?.0)
}

fn text_of(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn only_the_named_columns_change() {
    let file = b"id,\"phone\",note\r\n1,\"0912, 3\",\"x\"\"y\"\r\n2,,\"\"\r\n";
    let sealed = seal(&plan(&["phone"], &[]), file).await.unwrap();
    let lines: Vec<_> = text_of(&sealed).split("\r\n").collect();
    assert_eq!(lines[0], "id,\"phone\",note");
    assert!(lines[1].starts_with("1,\"kw1:") && lines[1].ends_with("\",\"x\"\"y\""), "{}", lines[1]);
    assert!(lines[2].starts_with("2,kw1:") && lines[2].ends_with(",\"\""), "{}", lines[2]);
    assert_eq!(open(&plan(&["phone"], &[]), &sealed).await.unwrap(), file);
}

#[tokio::test]
async fn a_cell_is_bound_to_its_column_and_row() {
    let bound = plan(&["a", "b"], &["id"]);
    let sealed = seal(&bound, b"id,a,b\n1,x,y\n2,x,y\n").await.unwrap();
    let cells: Vec<_> = text_of(&sealed).lines().skip(1).flat_map(|line| line.split(',').skip(1)).collect();
    for swapped in
        [format!("id,a,b\n1,{},{}\n", cells[1], cells[0]), format!("id,a,b\n2,{},{}\n", cells[0], cells[1])]
    {
        let failure = open(&bound, swapped.as_bytes()).await.unwrap_err();
        assert_eq!(failure.to_string(), "line 2, column \"a\": another context");
        assert_eq!(failure.exit() as u8, 6);
    }
}

#[tokio::test]
async fn with_keep_going_failed_cells_stay_and_are_counted() {
    let mut lenient = plan(&["a"], &[]);
    let sealed = seal(&lenient, b"a\nx\n").await.unwrap();
    let cell = text_of(&sealed).lines().nth(1).unwrap();
    lenient.keep_going = true;
    let mut toy = Toy { open: true, ..Toy::default() };
    let mixed = format!("a\nplain\n{cell}\n\"kw1:\"\n");
    let (opened, summary) = run(&lenient, mixed.as_bytes(), &mut toy).await.unwrap();
    assert_eq!(text_of(&opened), "a\nplain\nx\n\"kw1:\"\n");
    assert_eq!(summary, Summary { rows: 3, cells: 3, failed: 2 });
    assert!(toy.failures[1].starts_with("line 4, column \"a\""), "{:?}", toy.failures);
}

#[tokio::test]
async fn batches_are_bounded_and_progress_is_complete() {
    let mut file = b"a,b,c\n".to_vec();
    file.extend(b"1,2,3\n".repeat(1000));
    let mut toy = Toy::default();
    let (_, summary) = run(&plan(&["a", "b", "c"], &[]), &file, &mut toy).await.unwrap();
    assert_eq!(toy.batches, [999, 999, 999, 3]);
    assert_eq!((summary.rows, summary.cells, toy.advanced), (1000, 3000, file.len() as u64));
}

#[tokio::test]
async fn wrong_files_are_explained() {
    for (file, columns, message) in [
        (&b""[..], "a", "the input is empty: expected a header line"),
        (b"x,y\n", "a", "the header has no column \"a\"; it has: x, y"),
        (b"a,a\n", "a", "the header has two columns \"a\""),
        (b"a,b\n1\n", "a", "line 2 has 1 fields, the header 2"),
        (b"a\nx\"y\n", "a", "line 2 is not CSV as in RFC 4180: a quoted field does not end"),
        (
            b"a\nx\"y\"\n",
            "a",
            "line 2 is not CSV as in RFC 4180: a quote or carriage return stands in a field without quotes",
        ),
    ] {
        let failure = seal(&plan(&[columns], &[]), file).await.unwrap_err();
        assert_eq!((failure.to_string().as_str(), failure.exit() as u8), (message, 1));
    }
    let failure = seal(&plan(&["a"], &["id"]), b"id,a\n\xff,1\n").await.unwrap_err();
    assert!(failure.to_string().contains("not UTF-8"), "{failure}");
}

#[tokio::test]
async fn contradicting_plans_are_refused() {
    let mut column = plan(&["a"], &[]);
    column.context.insert("column".into(), "b".into());
    let mut twice = plan(&["a"], &["id"]);
    twice.context.insert("id".into(), "7".into());
    for plan in [column, twice, plan(&["a"], &["a"]), plan(&["a"], &["column"])] {
        assert!(matches!(seal(&plan, b"id,a,column\n").await, Err(Failure::Usage(_))), "{plan:?}");
    }
}

#[tokio::test]
async fn a_byte_order_mark_is_no_part_of_the_name() {
    let file = "\u{feff}\"a\",b\n1,2\n".as_bytes();
    let sealed = seal(&plan(&["a"], &[]), file).await.unwrap();
    assert!(sealed.starts_with("\u{feff}\"a\",b\nkw1:".as_bytes()));
    assert_eq!(open(&plan(&["a"], &[]), &sealed).await.unwrap(), file);
}

/// A field as some writer may have written it.
fn field() -> impl Strategy<Value = Vec<u8>> {
    let quoted = "[a-z\",\r\n;é ]{0,12}".prop_map(|text| format!("\"{}\"", text.replace('"', "\"\"")));
    prop_oneof!["[a-z0-9 ;é]{0,8}".boxed(), quoted.boxed()].prop_map(String::into_bytes)
}

fn file() -> impl Strategy<Value = Vec<u8>> {
    let end = prop_oneof![Just("\n"), Just("\r\n")];
    let row = (prop::collection::vec(field(), 3), end.clone());
    (prop::collection::vec(row, 0..40), end, any::<bool>()).prop_map(|(rows, end, last)| {
        let mut file = format!("id,\"b\",c{end}").into_bytes();
        for (fields, end) in rows {
            file.extend(fields.join(&b','));
            file.extend(end.as_bytes());
        }
        let cut = if last { 0 } else { if file.ends_with(b"\r\n") { 2 } else { 1 } };
        file.truncate(file.len() - cut);
        file
    })
}

proptest! {
    #[test]
    fn encrypt_then_decrypt_gives_the_same_bytes(file in file(), bind in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let plan = plan(&["c", "b"], if bind { &["id"] } else { &[] });
        let sealed = runtime.block_on(seal(&plan, &file)).unwrap();
        let opened = runtime.block_on(open(&plan, &sealed)).unwrap();
        prop_assert_eq!(text_of(&opened), text_of(&file));

        // Another reader sees the same cells in the column that was left alone.
        let ids = |bytes: &[u8]| -> Vec<String> {
            let mut reader = ::csv::Reader::from_reader(bytes);
            reader.records().map(|record| record.unwrap()[0].to_owned()).collect()
        };
        prop_assert_eq!(ids(&sealed), ids(&file));
    }

    #[test]
    fn any_bytes_are_taken_or_refused(file in prop::collection::vec(any::<u8>(), 0..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let plan = plan(&["a"], &[]);
        let file = [b"a,b\n", &file[..]].concat();
        if let Ok(sealed) = runtime.block_on(seal(&plan, &file)) {
            prop_assert_eq!(runtime.block_on(open(&plan, &sealed)).unwrap(), file);
        }
    }
}

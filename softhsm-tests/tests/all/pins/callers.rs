//! Each method, as each kind of caller asks for it.

use std::collections::BTreeMap;
use std::fmt::Write;

use bytes::Bytes;
use keyward::audit::{Outcome, Record};
use keyward_softhsm_tests::raw::Raw;
use keyward_softhsm_tests::{World, eventually};
use tonic::client::Grpc;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_types::StatusExt;

use super::calls::{Asked, asked};
use super::pinned;
use super::scene::Scene;

/// Principals of the configuration, by the kind of caller; `{uid}` is who runs the test.
const CALLERS: [(&str, &str); 8] = [
    ("operator", "[[principal]]\nname = \"tester\"\nrole = \"operator\"\nusers = [{uid}]\n"),
    (
        "operator with grants",
        "[[principal]]\nname = \"tester\"\nrole = \"operator\"\nusers = [{uid}]\n[[principal.allow]]\nkeys = [\"tenants/*/keys/*\"]\n{all}",
    ),
    (
        "application",
        "[[principal]]\nname = \"tester\"\nrole = \"application\"\nusers = [{uid}]\n[[principal.allow]]\nkeys = [\"tenants/acme/keys/*\"]\n{all}",
    ),
    (
        "application of another tenant",
        "[[principal]]\nname = \"tester\"\nrole = \"application\"\nusers = [{uid}]\n[[principal.allow]]\nkeys = [\"tenants/zeta/keys/*\"]\n{all}",
    ),
    (
        "application with logins",
        "[[principal]]\nname = \"tester\"\nrole = \"application\"\nusers = [{uid}]\norigin = \"https://crm.example\"\n",
    ),
    ("monitor", "[[principal]]\nname = \"tester\"\nrole = \"monitor\"\nusers = [{uid}]\n"),
    ("member", "[[principal]]\nname = \"tester\"\nrole = \"member\"\nusers = [{uid}]\n"),
    ("the daemon's own user", "[[principal]]\nname = \"other\"\nrole = \"operator\"\nusers = [65533]\n"),
];
const ALL: &str = "operations = [\"encrypt\", \"decrypt\", \"re-encrypt\", \"generate-data-key\", \"decrypt-data-key\", \"blind-index\"]\n";

/// For each call, the answers and the records that it leaves, and who gets them.
#[tokio::test]
async fn every_method_answers_and_records_as_before() {
    let mut table = Vec::new();
    for founded in [false, true] {
        let scene = Scene::new(founded).await;
        for (who, principals) in CALLERS {
            let world = as_caller(scene.world.copied(), who, principals);
            for (number, (call, answer)) in answers(&world, &scene).await.into_iter().enumerate() {
                if number == table.len() {
                    table.push((call, BTreeMap::new()));
                }
                let callers: &mut Vec<_> = table[number].1.entry(answer).or_default();
                callers.push((founded, who));
            }
        }
    }
    let mut text = String::new();
    for (call, answers) in table {
        writeln!(text, "{call}").unwrap();
        for (answer, callers) in answers {
            writeln!(text, "  {}:\n{answer}", names(&callers)).unwrap();
        }
    }
    pinned("callers.txt", text.trim_end());
}

/// Callers by name; those before or after the founding alone say so.
fn names(callers: &[(bool, &'static str)]) -> String {
    let of = |who: &str| {
        let with = |founded| callers.contains(&(founded, who));
        match (with(false), with(true)) {
            (true, true) => Some(who.to_owned()),
            (true, false) => Some(format!("{who} (unfounded)")),
            (false, true) => Some(format!("{who} (founded)")),
            (false, false) => None,
        }
    };
    let names: Vec<String> = CALLERS.iter().filter_map(|(who, _)| of(who)).collect();
    if names.len() == CALLERS.len() && callers.len() == 2 * names.len() {
        "everybody".to_owned()
    } else {
        names.join(", ")
    }
}

/// The installation, with its caller.
fn as_caller(mut world: World, who: &str, principals: &str) -> World {
    let uid = rustix::process::getuid().as_raw().to_string();
    let principals = principals.replace("{uid}", &uid).replace("{all}", ALL);
    let (begin, end) = (world.config.find("[[principal]]").unwrap(), world.config.find("[hsm]").unwrap());
    world.config.replace_range(begin..end, &format!("{principals}\n"));
    if who == "the daemon's own user" {
        world.reconfigure("allow_own_user = true", "allow_own_user = false");
    }
    world
}

/// Each call, with its answer and the records that it left.
async fn answers(world: &World, scene: &Scene) -> Vec<(String, String)> {
    let daemon = world.spawn();
    // A caller who is nobody is not told that it serves.
    eventually("an open vault", async || world.log().contains("the vault is open").then_some(())).await;
    let channel = world.channel().await;
    let mut all = Vec::new();
    let mut seen = world.audit().len();
    for one in asked(scene) {
        let mut text = format!("    {}", plain(&told(&ask(&channel, &one, MetadataMap::new()).await)));
        let records = world.audit();
        // A call's record comes before its answer; what the daemon does by itself meanwhile is no part of it.
        for record in records.get(seen..).unwrap_or_default().iter().filter(|record| record.caller.is_some())
        {
            write!(text, "\n      {}", plain(&line(record))).unwrap();
        }
        seen = records.len();
        all.push((format!("{} {}", one.method, one.what), text));
    }
    assert!(daemon.stop().await.success(), "{}", world.log());
    all
}

/// A record without what differs from one run to the next.
fn line(record: &Record) -> String {
    let outcome = match &record.outcome {
        Outcome::Failed(reason) => reason.clone(),
        other => format!("{other:?}"),
    };
    let staff = record.caller.as_ref().and_then(|caller| caller.staff.clone()).unwrap_or_default();
    let change = if record.change.is_some() { " (changes)" } else { "" };
    let items = record.items.as_ref().map(|items| format!(" {}+{} items", items.done, items.refused));
    format!(
        "{} {:?} {outcome} by {:?}{}{change} {:?} {staff}",
        record.operation,
        record.resource,
        record.policy,
        items.unwrap_or_default(),
        record.detail.as_deref().unwrap_or_default(),
    )
}

/// Numbers that are drawn, times, and what is measured, as `#`.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    for letter in text.chars().chain(['\n']) {
        if letter.is_ascii_alphanumeric() {
            word.push(letter);
            continue;
        }
        let drawn = word.len() >= 8 && word.bytes().all(|one| one.is_ascii_hexdigit());
        let number = word.len() >= 2 && word.bytes().all(|one| one.is_ascii_digit());
        let time =
            word.bytes().any(|one| one == b'T') && word.bytes().filter(u8::is_ascii_digit).count() >= 4;
        out += if drawn || number || time { "#" } else { &word };
        word.clear();
        out.push(letter);
    }
    out.trim_end().to_owned()
}

/// An answer in words.
pub(super) fn told(answer: &Result<Vec<Bytes>, Status>) -> String {
    match answer {
        Ok(_) => "ok".to_owned(),
        Err(status) => {
            let reason = status.get_error_details().error_info().map(|info| info.reason.clone());
            format!("{:?} {} {}", status.code(), reason.unwrap_or_default(), status.message())
        }
    }
}

/// Makes a call of any kind; answers all messages.
pub(super) async fn ask(
    channel: &Channel,
    asked: &Asked,
    metadata: MetadataMap,
) -> Result<Vec<Bytes>, Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::internal(error.to_string()))?;
    let path = format!("/keyward.v1.{}", asked.method).parse().unwrap();
    let mut request = Request::new(tokio_stream::iter(asked.messages.clone()));
    *request.metadata_mut() = metadata;
    // What goes on for ever is not asked for; a daemon that hangs is told by the table.
    request.set_timeout(std::time::Duration::from_secs(30));
    let mut stream = grpc.streaming(request, path, Raw).await?.into_inner();
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await? {
        messages.push(message);
    }
    Ok(messages)
}

//! Caps and displacement, by given times.

use std::time::Duration;

use super::*;

const LASTS: Duration = Duration::from_secs(120);

fn application(name: &str) -> PrincipalId {
    PrincipalId::new(name).unwrap()
}

fn challenge_of(name: &str, account: &str, client: &str) -> Challenge {
    Challenge {
        application: application(name),
        origin: Origin::new("https://crm.example").unwrap(),
        account: AccountId::new(account).unwrap(),
        client: ClientAddress::new(client).unwrap(),
        nonce: [0; 32],
        credentials: Vec::new(),
        issued: Date(0),
        expires: Date(0),
    }
}

fn challenge(account: &str, client: &str) -> Challenge {
    challenge_of("crm", account, client)
}

fn login(number: u32) -> LoginId {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    LoginId(id)
}

/// Logins that are begun one after the other, each a millisecond later.
struct Desk {
    challenges: Challenges,
    start: Moment,
    begun: u32,
}

impl Desk {
    fn new(caps: Caps) -> Self {
        Self { challenges: Challenges::new(caps), start: Moment::now(), begun: 0 }
    }

    fn now(&self) -> Moment {
        self.start.after(Duration::from_millis(self.begun.into()))
    }

    /// Begins one; its id where it is begun.
    fn begin(&mut self, name: &str, account: &str, client: &str) -> Option<LoginId> {
        self.begun += 1;
        let (id, now) = (login(self.begun), self.now());
        let begun = self.challenges.begin(id, challenge_of(name, account, client), now, now.after(LASTS));
        begun.is_ok().then_some(id)
    }

    fn take(&self, name: &str, id: LoginId) -> Taken {
        self.challenges.take(id, &application(name), self.now())
    }

    /// Whether it can still be completed.
    fn is_open(&self, name: &str, id: LoginId) -> bool {
        matches!(self.take(name, id), Taken::Challenge { fresh: true, .. })
    }

    fn len(&self) -> usize {
        self.challenges.open.lock().unwrap().logins.len()
    }
}

#[test]
fn a_login_is_taken_once_and_known_to_be_late() {
    let (challenges, now) = (Challenges::new(Caps::DEFAULT), Moment::now());
    let (end, crm) = (now.after(LASTS), application("crm"));
    challenges.begin(login(1), challenge("alice", "::1"), now, end).unwrap();
    challenges.begin(login(2), challenge("alice", "::1"), now, end).unwrap();
    let taken = |fresh| Taken::Challenge { challenge: challenge("alice", "::1"), fresh };
    assert_eq!(challenges.take(login(1), &crm, now), taken(true));
    assert_eq!(challenges.take(login(1), &crm, now), Taken::Nothing);
    assert_eq!(challenges.take(login(2), &crm, end), taken(false));
    assert_eq!(challenges.take(login(3), &crm, now), Taken::Nothing);
}

#[test]
fn another_application_does_not_use_a_login_up() {
    let (challenges, now) = (Challenges::new(Caps::DEFAULT), Moment::now());
    challenges.begin(login(1), challenge("alice", "::1"), now, now.after(LASTS)).unwrap();
    for _ in 0..3 {
        let other = challenges.take(login(1), &application("web"), now);
        assert_eq!(other, Taken::OfAnother(challenge("alice", "::1")));
    }
    let taken = challenges.take(login(1), &application("crm"), now);
    assert!(matches!(taken, Taken::Challenge { fresh: true, .. }), "{taken:?}");
    assert_eq!(challenges.take(login(1), &application("web"), now), Taken::Nothing);
}

#[test]
fn an_address_counts_in_every_spelling() {
    let from = |text| Source::of(&ClientAddress::new(text).unwrap());
    for (one, other) in [
        ("2001:db8::1", "2001:DB8:0::ffff"),
        ("192.0.2.1", "::ffff:192.0.2.1"),
        ("192.0.2.1", "192.0.2.1:4711"),
        ("[2001:db8::1]:443", "2001:db8::2"),
    ] {
        assert_eq!(from(one), from(other));
    }
    assert_ne!(from("192.0.2.1"), from("192.0.2.2"));
    assert_ne!(from("2001:db8::1"), from("2001:db8:0:1::1"));
    assert_eq!(from("counter-7"), Source { address: "counter-7".into(), networks: Vec::new() });
    assert_eq!(from("192.0.2.1").networks, [("192.0.2.0/24".to_owned(), 4)]);
    let six = from("2001:db8:1:abcd::1");
    assert_eq!(six.address, "2001:db8:1:abcd::/64");
    assert_eq!(six.networks, [("2001:db8:1:ab00::/56".to_owned(), 4), ("2001:db8:1::/48".to_owned(), 16)]);
}

#[test]
fn caps_of_a_source_hold_and_close_nothing() {
    let caps = Caps { per_client: 2, per_address: 3, per_application: 100, total: 100 };
    let (challenges, now) = (Challenges::new(caps), Moment::now());
    let (end, crm) = (now.after(LASTS), application("crm"));
    let begin =
        |number, account, client| challenges.begin(login(number), challenge(account, client), now, end);
    assert!(begin(1, "alice", "a").is_ok() && begin(2, "alice", "a").is_ok());
    assert_eq!(begin(3, "alice", "a"), Err(LASTS));
    assert!(begin(4, "alice", "b").is_ok() && begin(5, "bob", "a").is_ok());
    assert!(begin(6, "carol", "a").is_err(), "too many from there");
    assert!(begin(6, "carol", "c").is_ok());
    // One that failed counts on.
    assert!(matches!(challenges.take(login(1), &crm, now), Taken::Challenge { .. }));
    assert!(begin(7, "alice", "a").is_err());
    challenges.succeeded(login(1));
    assert!(begin(7, "alice", "a").is_ok());
    assert_eq!(challenges.take(login(1), &crm, now), Taken::Nothing);
}

#[test]
fn a_crowd_displaces_itself_and_nobody_from_elsewhere() {
    let mut desk = Desk::new(Caps::DEFAULT);
    let staff: Vec<_> =
        (0..40).map(|n| desk.begin("crm", &format!("s{n}"), &format!("198.51.{n}.7")).unwrap()).collect();
    for number in 0..20_000 {
        desk.begin("crm", &format!("x{number}"), &format!("203.{}.113.5", number % 17));
    }
    assert_eq!(desk.len(), Caps::DEFAULT.per_application);
    let late = desk.begin("crm", "alice", "192.0.2.9").unwrap();
    assert!(staff.into_iter().chain([late]).all(|id| desk.is_open("crm", id)));
}

#[test]
fn whoever_has_a_network_is_one_source() {
    // As many addresses as there are logins, in a /48, a /56, a /60 and an IPv4 network.
    let attackers: [fn(u32) -> String; 4] = [
        |n| format!("2001:db8:1:{:x}::1", n % 65_536),
        |n| format!("2001:db8:1:{:x}::1", n % 256),
        |n| format!("2001:db8:1:{:x}::1", n % 16),
        |n| format!("203.0.113.{}", n % 256),
    ];
    for from in attackers {
        let mut desk = Desk::new(Caps::DEFAULT);
        // Behind one address, as an office is.
        let staff: Vec<_> =
            (0..20).map(|n| desk.begin("crm", &format!("s{n}"), "198.51.100.7").unwrap()).collect();
        for number in 0..9000 {
            desk.begin("crm", &format!("x{number}"), &from(number));
        }
        assert!(desk.len() <= Caps::DEFAULT.per_application);
        assert!(desk.begin("crm", "alice", "192.0.2.9").is_some());
        assert!(staff.into_iter().all(|id| desk.is_open("crm", id)), "{}", from(0));
    }
}

#[test]
fn what_was_answered_gives_way_first_and_then_the_oldest() {
    let caps = Caps { per_client: 10, per_address: 10, per_application: 4, total: 100 };
    let mut desk = Desk::new(caps);
    let mut begin = |account: &str, client: &str| desk.begin("crm", account, client).unwrap();
    let [lone, first, second, third] = [
        begin("a", "192.0.2.1"),
        begin("b", "198.51.100.1"),
        begin("c", "198.51.100.1"),
        begin("d", "198.51.100.1"),
    ];
    assert!(desk.is_open("crm", second), "it is answered by that");
    let fourth = desk.begin("crm", "e", "203.0.113.1").unwrap();
    let fifth = desk.begin("crm", "f", "203.0.114.1").unwrap();
    assert_eq!(desk.take("crm", first), Taken::Nothing, "the oldest of those that wait");
    for id in [lone, third, fourth, fifth] {
        assert!(desk.is_open("crm", id));
    }
}

#[test]
fn one_application_does_not_displace_another() {
    let mut desk = Desk::new(Caps::DEFAULT);
    let staff: Vec<_> =
        (0..100).map(|n| desk.begin("crm", &format!("s{n}"), "198.51.100.7").unwrap()).collect();
    for number in 0..12_000 {
        let name = if number % 2 == 0 { "web" } else { "shop" };
        desk.begin(name, &format!("x{number}"), &format!("10.{}.{}.1", number % 200, number % 7));
    }
    assert_eq!(desk.len(), Caps::DEFAULT.total);
    let late = desk.begin("crm", "alice", "192.0.2.9").unwrap();
    assert_eq!(desk.len(), Caps::DEFAULT.total);
    assert!(staff.into_iter().chain([late]).all(|id| desk.is_open("crm", id)));
}

#[test]
fn later_nothing_is_left() {
    let mut desk = Desk::new(Caps::DEFAULT);
    for number in 0..10_000 {
        let begun = desk.begin("crm", &format!("a{number}"), &format!("10.0.0.{}", number % 100)).unwrap();
        match number % 3 {
            0 => assert!(desk.is_open("crm", begun)),
            1 => desk.challenges.succeeded(begun),
            _ => {}
        }
    }
    let end = desk.now().after(LASTS);
    desk.challenges.begin(login(0), challenge("late", "counter-7"), end, end.after(LASTS)).unwrap();
    let open = desk.challenges.open.lock().unwrap();
    let sizes = [open.logins.len(), open.by_end.len(), open.by_client.len(), open.by_address.len()];
    assert_eq!((sizes, open.applications.len(), open.by_application.len()), ([1; 4], 1, 1));
    assert_eq!(open.applications[&application("crm")].groups(), 1);
}

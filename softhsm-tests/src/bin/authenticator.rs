//! `authenticator FILE COUNTER`: the one-time password that an authenticator program would show for the otpauth
//! URI in a file, for the demo. By counter (RFC 4226), so that nobody waits for the next half minute.

use std::error::Error;
use std::io::Write;

use keyward::keyring::otp::{OtpHash, OtpKind, OtpScheme};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (file, counter) = arguments.next().zip(arguments.next()).ok_or("which file, and which counter?")?;
    let uri = std::fs::read_to_string(file)?;
    let seed = uri.trim().strip_prefix("otpauth://hotp/").and_then(|rest| rest.split_once("secret="));
    let seed = seed.and_then(|(_, rest)| rest.split('&').next()).ok_or("no otpauth URI by counter")?;
    let seed = data_encoding::BASE32_NOPAD.decode(seed.as_bytes())?;
    let scheme = OtpScheme::new(OtpKind::Hotp, OtpHash::Sha1, 6).ok_or("no scheme")?;
    writeln!(std::io::stdout(), "{}", scheme.password(&seed, counter.parse()?))?;
    Ok(())
}

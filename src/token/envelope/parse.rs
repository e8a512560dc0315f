//! Reading an envelope: what is read is what a builder writes, byte for byte.

use super::{
    Ceremony, Enrolment, Envelope, EnvelopeError, Login, LoginEnrolment, Matter, PREFIX, Purpose,
    RestoreShare, StepUp,
};
use crate::clock::Date;
use crate::id::{
    AccountId, CeremonyId, CustodianId, DeploymentId, LoginId, Origin, ProposalId, TicketId, TokenName,
};
use crate::keyring::credential::CredentialId;
use crate::keyring::custodian::AgreementKey;
use crate::token::printable::Statement;

impl Envelope {
    /// Reads an envelope.
    ///
    /// # Errors
    /// [`EnvelopeError`] unless it is exactly what the builder of its purpose writes.
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let rest = bytes.strip_prefix(PREFIX).ok_or(EnvelopeError::Prefix)?;
        if bytes.len() > Self::LONGEST {
            return Err(EnvelopeError::Fields("it is too long"));
        }
        let (number, rest) = rest.split_first().ok_or(EnvelopeError::Fields("it has no purpose"))?;
        let mut fields = Fields(rest);
        let deployment = DeploymentId(fields.exact()?);
        let credential = CredentialId(fields.exact()?);
        let matter = match Purpose::of(*number) {
            Some(Purpose::Login) => fields.login()?,
            Some(Purpose::Enrolment) => fields.enrolment()?,
            Some(Purpose::StepUp) => fields.step_up()?,
            Some(Purpose::Ceremony) => fields.ceremony()?,
            Some(Purpose::RestoreShare) => fields.restore_share()?,
            Some(Purpose::LoginEnrolment) => fields.login_enrolment()?,
            _ => return Err(EnvelopeError::Purpose(*number)),
        };
        let envelope = matter.envelope(deployment, credential);
        match fields.0.is_empty() && envelope.bytes == bytes {
            true => Ok(envelope),
            false => Err(EnvelopeError::Fields("it goes on after its end, or is spelt in another way")),
        }
    }
}

/// The fields that are still to be read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<&'a [u8], EnvelopeError> {
        const CUT: EnvelopeError = EnvelopeError::Fields("it is cut");
        let (length, rest) = self.0.split_first_chunk().ok_or(CUT)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| CUT)?;
        let (field, rest) = rest.split_at_checked(length).ok_or(CUT)?;
        self.0 = rest;
        Ok(field)
    }

    fn exact<const N: usize>(&mut self) -> Result<[u8; N], EnvelopeError> {
        self.next()?.try_into().map_err(|_| EnvelopeError::Fields("a field has the wrong length"))
    }

    fn date(&mut self) -> Result<Date, EnvelopeError> {
        self.exact().map(|bytes| Date(u64::from_be_bytes(bytes)))
    }

    fn text(&mut self) -> Result<&'a str, EnvelopeError> {
        std::str::from_utf8(self.next()?).map_err(|_| EnvelopeError::Fields("a text is not UTF-8"))
    }

    fn statement(&mut self) -> Result<Statement, EnvelopeError> {
        Ok(Statement::new(self.text()?)?)
    }

    fn agreement(&mut self) -> Result<AgreementKey, EnvelopeError> {
        let key = AgreementKey::new(self.next()?.to_vec());
        key.map_err(|_| EnvelopeError::Fields("a key is no P-256 key"))
    }

    fn account(&mut self) -> Result<AccountId, EnvelopeError> {
        AccountId::new(self.text()?).map_err(|_| EnvelopeError::Fields("the account is none"))
    }

    fn login(&mut self) -> Result<Matter, EnvelopeError> {
        let origin = Origin::new(self.text()?).map_err(|_| EnvelopeError::Fields("the origin is none"))?;
        Ok(Matter::Login(Login {
            origin,
            login: LoginId(self.exact()?),
            nonce: self.exact()?,
            account: self.account()?,
            issued: self.date()?,
            expires: self.date()?,
            session: self.agreement()?,
        }))
    }

    fn step_up(&mut self) -> Result<Matter, EnvelopeError> {
        Ok(Matter::StepUp(StepUp {
            proposal: ProposalId(self.exact()?),
            account: self.account()?,
            created: self.date()?,
            expires: self.date()?,
            statement: self.statement()?,
        }))
    }

    fn login_enrolment(&mut self) -> Result<Matter, EnvelopeError> {
        let account = self.account()?;
        let (ticket, nonce) = (TicketId(self.exact()?), self.exact()?);
        let expires = self.date()?;
        let name =
            TokenName::new(self.text()?).map_err(|_| EnvelopeError::Fields("the token's name is none"))?;
        Ok(Matter::LoginEnrolment(LoginEnrolment { account, ticket, nonce, expires, name }))
    }

    fn enrolment(&mut self) -> Result<Matter, EnvelopeError> {
        let name = CustodianId::new(self.text()?).map_err(|_| EnvelopeError::Fields("the name is none"))?;
        Ok(Matter::Enrolment(Enrolment { name, agreement: self.agreement()? }))
    }

    fn ceremony(&mut self) -> Result<Matter, EnvelopeError> {
        Ok(Matter::Ceremony(Ceremony {
            ceremony: CeremonyId(self.exact()?),
            roster: self.exact()?,
            created: self.date()?,
            expires: self.date()?,
            statement: self.statement()?,
        }))
    }

    fn restore_share(&mut self) -> Result<Matter, EnvelopeError> {
        Ok(Matter::RestoreShare(RestoreShare {
            ceremony: CeremonyId(self.exact()?),
            statement: self.statement()?,
            transport: self.agreement()?,
        }))
    }
}

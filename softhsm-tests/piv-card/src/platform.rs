//! What the card's application runs on: storage in files, and randomness of the operating system.
//!
//! The platform that `trussed` has for tests makes every card the same keys.

use std::path::Path;

use piv_authenticator::{Authenticator, Options};
use rand_core::OsRng;
use trussed::backend::{Backend as _, BackendId};
use trussed::pipe::TrussedChannel;
use trussed::platform::Platform;
use trussed::serde_extensions::{ExtensionDispatch, ExtensionId, ExtensionImpl};
use trussed::service::ServiceResources;
use trussed::types::Context;
use trussed::virt::{self, Runner, StorageConfig, Store, StoreConfig, UserInterface};
use trussed_auth::AuthExtension;
use trussed_auth_backend::{AuthBackend, AuthContext, FilesystemLayout};
use trussed_chunked::ChunkedExtension;
use trussed_core::Error;
use trussed_core::api::{Reply, Request, reply, request};
use trussed_core::types::Location;
use trussed_hpke::HpkeExtension;
use trussed_rsa_alloc::SoftwareRsa;
use trussed_staging::{StagingBackend, StagingContext};
use trussed_wrap_key_to_file::WrapKeyToFileExtension;

/// The application, with its keys in the platform.
pub type Application<'a> = Authenticator<virt::Client<'a, Dispatch>>;

/// Runs `work` with an application whose keys and PINs lie in a folder.
pub fn with_application<R>(folder: &Path, work: impl FnOnce(Application<'_>) -> R) -> R {
    let mut store = StoreConfig {
        internal: StorageConfig::filesystem(folder.join("internal")),
        external: StorageConfig::filesystem(folder.join("external")),
        volatile: StorageConfig::ram(),
    };
    store.with_store(|store| {
        let channel = TrussedChannel::new();
        let (requester, responder) = channel.split().expect("a new channel");
        let mut runner = Runner::new();
        runner.add_endpoint(responder, "piv", BACKENDS);
        let client = virt::Client::new(requester, runner.syscall(), None);
        let machine = Machine { random: OsRng, store, interface: UserInterface::new() };
        runner.run(machine, Dispatch::new(), || work(Authenticator::new(client, Options::new())))
    })
}

struct Machine<'a> {
    random: OsRng,
    store: Store<'a>,
    interface: UserInterface,
}

impl<'a> Platform for Machine<'a> {
    type R = OsRng;
    type S = Store<'a>;
    type UI = UserInterface;

    fn rng(&mut self) -> &mut OsRng {
        &mut self.random
    }

    fn store(&self) -> Store<'a> {
        self.store
    }

    fn user_interface(&mut self) -> &mut UserInterface {
        &mut self.interface
    }
}

const BACKENDS: &[BackendId<Backend>] = &[
    BackendId::Custom(Backend::Rsa),
    BackendId::Custom(Backend::Auth),
    BackendId::Custom(Backend::Staging),
    BackendId::Core,
];

pub enum Backend {
    Rsa,
    Auth,
    Staging,
}

/// Which part of the platform answers which request.
pub struct Dispatch {
    auth: AuthBackend,
    staging: StagingBackend,
}

#[derive(Default)]
pub struct Contexts {
    auth: AuthContext,
    staging: StagingContext,
}

impl Dispatch {
    fn new() -> Self {
        let auth = AuthBackend::new(Location::Internal, FilesystemLayout::V1);
        Self { auth, staging: StagingBackend::new() }
    }
}

impl ExtensionDispatch for Dispatch {
    type BackendId = Backend;
    type Context = Contexts;
    type ExtensionId = Extension;

    fn core_request<P: Platform>(
        &mut self,
        backend: &Backend,
        context: &mut Context<Contexts>,
        request: &Request,
        resources: &mut ServiceResources<P>,
    ) -> Result<Reply, Error> {
        let Context { core, backends, .. } = context;
        match backend {
            Backend::Rsa => SoftwareRsa.request(core, &mut (), request, resources),
            Backend::Auth => self.auth.request(core, &mut backends.auth, request, resources),
            Backend::Staging => self.staging.request(core, &mut backends.staging, request, resources),
        }
    }

    fn extension_request<P: Platform>(
        &mut self,
        backend: &Backend,
        extension: &Extension,
        context: &mut Context<Contexts>,
        request: &request::SerdeExtension,
        resources: &mut ServiceResources<P>,
    ) -> Result<reply::SerdeExtension, Error> {
        let Context { core, backends, .. } = context;
        let Contexts { auth, staging } = backends;
        match (backend, extension) {
            (Backend::Auth, Extension::Auth) => ExtensionImpl::<AuthExtension>::extension_request_serialized(
                &mut self.auth,
                core,
                auth,
                request,
                resources,
            ),
            (Backend::Staging, Extension::Chunked) => {
                ExtensionImpl::<ChunkedExtension>::extension_request_serialized(
                    &mut self.staging,
                    core,
                    staging,
                    request,
                    resources,
                )
            }
            (Backend::Staging, Extension::Hpke) => {
                ExtensionImpl::<HpkeExtension>::extension_request_serialized(
                    &mut self.staging,
                    core,
                    staging,
                    request,
                    resources,
                )
            }
            (Backend::Staging, Extension::WrapKeyToFile) => {
                ExtensionImpl::<WrapKeyToFileExtension>::extension_request_serialized(
                    &mut self.staging,
                    core,
                    staging,
                    request,
                    resources,
                )
            }
            _ => Err(Error::RequestNotAvailable),
        }
    }
}

#[derive(Clone, Copy)]
pub enum Extension {
    Auth,
    Chunked,
    Hpke,
    WrapKeyToFile,
}

impl Extension {
    const ALL: [Self; 4] = [Self::Auth, Self::Chunked, Self::Hpke, Self::WrapKeyToFile];
}

impl From<Extension> for u8 {
    fn from(extension: Extension) -> Self {
        extension as Self
    }
}

impl TryFrom<u8> for Extension {
    type Error = Error;

    fn try_from(id: u8) -> Result<Self, Error> {
        Self::ALL.get(usize::from(id)).copied().ok_or(Error::InternalError)
    }
}

impl ExtensionId<AuthExtension> for Dispatch {
    type Id = Extension;
    const ID: Extension = Extension::Auth;
}

impl ExtensionId<ChunkedExtension> for Dispatch {
    type Id = Extension;
    const ID: Extension = Extension::Chunked;
}

impl ExtensionId<HpkeExtension> for Dispatch {
    type Id = Extension;
    const ID: Extension = Extension::Hpke;
}

impl ExtensionId<WrapKeyToFileExtension> for Dispatch {
    type Id = Extension;
    const ID: Extension = Extension::WrapKeyToFile;
}

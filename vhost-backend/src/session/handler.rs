//! What each vhost-user message does to a session.

use std::fs::File;

use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Backend, Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};

use crate::device::{OFFERED_FEATURES, offered_protocol_features};
use crate::limits::MAX_MEMORY_REGIONS;
use crate::session::memory::{MemoryError, MemoryTable};
use crate::session::ring::RingAddresses;
use crate::session::{Ring, Session};

impl Session {
    /// Refuses a message and says why; the connection ends with it.
    fn refuse<T>(&self, why: impl std::fmt::Display) -> Result<T> {
        if let Some(suppressed) = self.log.admit() {
            tracing::warn!(suppressed, "message refused: {why}");
        }
        Err(Error::InvalidParam)
    }

    fn change(&mut self, index: u32, change: impl FnOnce(&mut Ring)) -> Result<()> {
        let count = self.rings.len();
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        match self.change_ring(index, change) {
            Some(()) => Ok(()),
            None => self.refuse(format!("ring {index}: there are {count}")),
        }
    }

    fn adopt(&mut self, memory: std::result::Result<MemoryTable, MemoryError>) -> Result<()> {
        match memory {
            Ok(memory) => {
                self.change_memory(memory);
                Ok(())
            }
            Err(error) => self.refuse(error),
        }
    }
}

impl VhostUserBackendReqHandlerMut for Session {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    /// Long deprecated. What it may still mean is that no ring should run.
    fn reset_owner(&mut self) -> Result<()> {
        self.reset_device()
    }

    fn reset_device(&mut self) -> Result<()> {
        self.rings.iter_mut().for_each(Ring::reset);
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(OFFERED_FEATURES)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        let unknown = features & !OFFERED_FEATURES;
        if unknown != 0 {
            return self.refuse(format!("features {unknown:#x} were never offered"));
        }
        self.change_features(features);
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        self.adopt(MemoryTable::new(regions, files)).map(|()| None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let mut accepted = false;
        self.change(index, |ring| accepted = ring.set_size(num))?;
        if accepted {
            Ok(())
        } else {
            self.refuse(format!("ring {index}: size {num}"))
        }
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        for address in [descriptor, used, available] {
            if self.memory.guest_address(address).is_none() {
                return self.refuse(format!(
                    "ring {index}: address {address:#x} is outside guest memory"
                ));
            }
        }
        self.change(index, |ring| {
            ring.set_addresses(RingAddresses {
                descriptors: descriptor,
                available,
                used,
            })
        })
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        match u16::try_from(base) {
            Ok(base) => self.change(index, |ring| ring.set_next_avail(base)),
            Err(_) => self.refuse(format!("ring {index}: base {base} is not a split ring's")),
        }
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let mut base = 0;
        self.change(index, |ring| base = ring.stop_until_next_kick())?;
        Ok(VhostUserVringState::new(index, u32::from(base)))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.change(u32::from(index), |ring| ring.set_kick(fd))
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.change(u32::from(index), |ring| ring.set_call(fd))
    }

    fn set_vring_err(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.change(u32::from(index), |ring| ring.set_error(fd))
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(offered_protocol_features())
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        let unknown = features & !offered_protocol_features().bits();
        if unknown != 0 {
            return self.refuse(format!("protocol features {unknown:#x} were never offered"));
        }
        self.protocol_features = features;
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.rings.len() as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.change(index, |ring| ring.set_enabled(enable))
    }

    /// An error here is answered with an empty payload; the connection goes on.
    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> Result<Vec<u8>> {
        let bytes = self.device.config_space().read(offset, size);
        bytes.map(<[u8]>::to_vec).ok_or(Error::InvalidParam)
    }

    fn set_config(&mut self, offset: u32, buf: &[u8], flags: VhostUserConfigFlags) -> Result<()> {
        // After a live migration the source's configuration comes back; what it says is already true here.
        let unchanged = u32::try_from(buf.len())
            .ok()
            .and_then(|size| self.device.config_space().read(offset, size))
            .is_some_and(|bytes| bytes == buf);
        if flags.contains(VhostUserConfigFlags::LIVE_MIGRATION) && unchanged {
            return Ok(());
        }
        self.refuse("the configuration space is read-only")
    }

    fn set_backend_req_fd(&mut self, backend: Backend) {
        self.backend_channel = Some(backend);
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(MAX_MEMORY_REGIONS as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        fd: File,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        let memory = self.memory.with(region, fd);
        self.adopt(memory).map(|()| None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let memory = self.memory.without(region);
        self.adopt(memory)
    }

    fn set_gpu_socket(&mut self, _gpu_backend: GpuBackend) -> Result<()> {
        self.refuse("this is no GPU")
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        self.refuse("shared objects were not offered")
    }

    fn get_inflight_fd(
        &mut self,
        _inflight: &VhostUserInflight,
    ) -> Result<(VhostUserInflight, File)> {
        self.refuse("in-flight tracking was not offered")
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        self.refuse("in-flight tracking was not offered")
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _fd: File,
    ) -> Result<Option<File>> {
        self.refuse("device state transfer was not offered")
    }

    fn check_device_state(&mut self) -> Result<()> {
        self.refuse("device state transfer was not offered")
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        self.refuse("shared memory was not offered")
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        self.refuse("dirty logging was not offered")
    }
}

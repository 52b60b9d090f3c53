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
use crate::guest::{DirtyLog, InflightRegion};
use crate::limits::{MAX_MEMORY_REGIONS, MAX_RING_SIZE};
use crate::request::chain_text;
use crate::session::device_state::StateTransfer;
use crate::session::memory::{MemoryError, MemoryTable};
use crate::session::ring::RingAddresses;
use crate::session::{Ring, Session};

impl Session {
    /// Refuses a message that was understood, and says why. What it asked for is not done, and nothing else is.
    fn refuse<T>(&mut self, why: impl std::fmt::Display) -> Result<T> {
        self.refused = true;
        if let Some(suppressed) = self.log.admit() {
            tracing::warn!(suppressed, "message refused: {why}");
        }
        Err(Error::InvalidParam)
    }

    fn refuse_for<T>(&mut self, error: &dyn std::error::Error) -> Result<T> {
        self.refuse(chain_text(error))
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
            Err(error) => self.refuse_for(&error),
        }
    }

    fn any_ring_runs(&self) -> bool {
        self.rings.iter().any(Ring::is_running)
    }

    /// Takes over a map of requests in flight. The file of the one before is closed.
    fn adopt_inflight(&mut self, region: InflightRegion) {
        let region = Some(std::sync::Arc::new(region));
        self.change_surroundings(|surroundings| surroundings.inflight = region);
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
        self.stop_rings();
        self.rings.iter_mut().for_each(Ring::reset);
        // Nothing is in flight in a device that has been reset, whatever a map may say.
        self.surroundings.inflight = None;
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        self.features_asked = true;
        Ok(OFFERED_FEATURES)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        let unknown = features & !OFFERED_FEATURES;
        if unknown != 0 {
            return self.refuse(format!("features {unknown:#x} were never offered"));
        }
        match self.change_features(features) {
            Ok(()) => Ok(()),
            Err(error) => self.refuse_for(&error),
        }
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        let options = self.surroundings.mapping_options();
        self.adopt(MemoryTable::new(regions, files, &options))
            .map(|()| None)
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
        flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        log: u64,
    ) -> Result<()> {
        for address in [descriptor, used, available] {
            if self.surroundings.memory.guest_address(address).is_none() {
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
                used_log: flags
                    .contains(VhostUserVringAddrFlags::VHOST_VRING_F_LOG)
                    .then_some(log),
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
        self.change(index, |ring| base = ring.wait_for_next_kick())?;
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
        self.surroundings.protocol_features = features;
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
        let bytes = self.surroundings.device.config_space().read(offset, size);
        bytes.map(<[u8]>::to_vec).ok_or(Error::InvalidParam)
    }

    fn set_config(&mut self, offset: u32, buf: &[u8], flags: VhostUserConfigFlags) -> Result<()> {
        // After a live migration the source's configuration comes back; what it says is already true here.
        let unchanged = u32::try_from(buf.len())
            .ok()
            .and_then(|size| self.surroundings.device.config_space().read(offset, size))
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
        let options = self.surroundings.mapping_options();
        let memory = self.surroundings.memory.with(region, fd, &options);
        self.adopt(memory).map(|()| None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let memory = self.surroundings.memory.without(region);
        self.adopt(memory)
    }

    fn set_gpu_socket(&mut self, _gpu_backend: GpuBackend) -> Result<()> {
        self.refuse("this is no GPU")
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        self.refuse("shared objects were not offered")
    }

    /// The ring size a front-end states is not what its rings have, so there is room for the largest.
    fn get_inflight_fd(
        &mut self,
        inflight: &VhostUserInflight,
    ) -> Result<(VhostUserInflight, File)> {
        let (queues, size) = (inflight.num_queues, inflight.queue_size);
        if usize::from(queues) > self.rings.len() || size > MAX_RING_SIZE {
            return self.refuse(format!("in-flight map for {queues} queues of {size}"));
        }
        match InflightRegion::create(queues, &self.surroundings.alarm) {
            Ok((region, file, len_bytes)) => {
                self.adopt_inflight(region);
                let reply = VhostUserInflight::new(len_bytes, 0, queues, size);
                Ok((reply, file))
            }
            Err(error) => self.refuse_for(&error),
        }
    }

    fn set_inflight_fd(&mut self, inflight: &VhostUserInflight, file: File) -> Result<()> {
        let (offset, len_bytes) = (inflight.mmap_offset, inflight.mmap_size);
        let alarm = &self.surroundings.alarm;
        match InflightRegion::map(file, offset, len_bytes, inflight.num_queues, alarm) {
            Ok(region) => {
                self.adopt_inflight(region);
                Ok(())
            }
            Err(error) => self.refuse_for(&error),
        }
    }

    fn set_device_state_fd(
        &mut self,
        direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        file: File,
    ) -> Result<Option<File>> {
        if self.any_ring_runs() {
            return self.refuse("device state can be transferred only while no ring runs");
        }
        self.state_transfer = StateTransfer::None;
        let transfer = match direction {
            VhostTransferStateDirection::SAVE => {
                StateTransfer::save(&self.surroundings.device, file)
            }
            VhostTransferStateDirection::LOAD => Ok(StateTransfer::load(file)),
        };
        match transfer {
            Ok(transfer) => {
                self.state_transfer = transfer;
                Ok(None)
            }
            Err(error) => self.refuse_for(&error),
        }
    }

    fn check_device_state(&mut self) -> Result<()> {
        match self.state_transfer.check(&self.surroundings.device) {
            Ok(()) => Ok(()),
            Err(error) => self.refuse_for(&error),
        }
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        self.refuse("shared memory was not offered")
    }

    fn set_log_base(&mut self, log: &VhostUserLog, file: File) -> Result<()> {
        let alarm = &self.surroundings.alarm;
        let log = match DirtyLog::map(file, log.mmap_offset, log.mmap_size, alarm) {
            Ok(log) => log,
            Err(error) => return self.refuse(format!("dirty log: {}", chain_text(&error))),
        };
        match self.change_dirty_log(log) {
            Ok(()) => Ok(()),
            Err(error) => self.refuse_for(&error),
        }
    }
}

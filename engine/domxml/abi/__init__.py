"""Hold as data what of a domain XML the guest sees, as libvirt's own check has it: one table per noun.

Source: libvirt src/conf/domain_conf.c, virDomainDefCheckABIStabilityFlags(), as of 11.3.
"""

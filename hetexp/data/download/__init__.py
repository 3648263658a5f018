"""Public data to a folder of one's own: fetched, verified, unpacked as released, and looked over afterwards.

`sources` says what there is and where, `fetch` brings one file, `archive` unpacks it, `receipts` remembers what was
done, `retrieve` puts these together, and `check` reports what is there, missing or damaged.
"""

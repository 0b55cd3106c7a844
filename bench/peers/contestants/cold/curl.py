"""The limit: curl with presigned URLs. Presigning is done before the clock starts. 'curl' = one
connection at a time with keep-alive; 'curl-par' = curl -Z, 8 transfers at once."""
import pathlib, subprocess
from lib import *
PRESIGN = """
import boto3,sys,botocore.config
c=boto3.client('s3',endpoint_url=sys.argv[1],config=botocore.config.Config(signature_version='s3v4',s3={'addressing_style':'path'}))
op,b,s,n=sys.argv[2:6]
for i in range(int(n)): print(c.generate_presigned_url(op,Params={'Bucket':b,'Key':f'{s}/o{i:05d}'},ExpiresIn=7200))
"""
class C:
    def __init__(self, name, par): self.name, self.par, self.u = name, par, {}
    def available(self): return None if VENV.exists() and shutil.which("curl") else "no curl, or no venv with boto3 to presign"
    def command(self, d, s, n, size, src, dst):
        if self.par and n == 1: raise NotImplementedError("one object: same as curl")
        if (d, s) not in self.u:
            self.u[d, s] = subprocess.check_output([str(VENV), "-c", PRESIGN, ENDPOINT, "get_object" if d == "down" else "put_object",
                BUCKET if d == "down" else UP, s, str(n)], env=env(), text=True).split()
        cfg = W / "curl.cfg"
        # curl -K: one 'next'-free list; each url pairs with its output / upload-file
        with open(cfg, "w") as f:
            for i, u in enumerate(self.u[d, s]):
                f.write(f'url = "{u}"\n' + (f'output = "{dst}/o{i:05d}"\n' if d == "down" else f'upload-file = "{src}/o{i:05d}"\n'))
        return ["curl", "-sSf"] + (["-Z", "--parallel-max", "8"] if self.par else []) + ["-K", cfg], {}
CONTESTANTS = [C("curl", False), C("curl-par8", True)]
